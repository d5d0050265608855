"""Several processes that take requests, and the one that watches over them."""
