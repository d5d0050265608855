"""Interaction data: one event table, adapters that produce it, and the labels of three tasks."""
