"""Measurements of serving, and the records that they leave."""
