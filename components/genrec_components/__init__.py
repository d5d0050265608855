"""Kubeflow steps, one a file; each is a thin wrapper around `genrec_model`."""
