"""Offline evaluation: retrieval over the whole catalogue, and the three tasks."""
