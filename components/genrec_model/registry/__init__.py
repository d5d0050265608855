"""MLflow: tracking of runs, and the model registry whose aliases say what is served."""
