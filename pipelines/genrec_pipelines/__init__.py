"""The Kubeflow pipeline, its recipes and the `genrec` command."""
