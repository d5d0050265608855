"""Which engine answers a request."""
