"""HSTU and everything that turns interaction data into a model that can be served."""
