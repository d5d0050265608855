"""Triton kernels; each module imports Triton, so each is imported where an op first runs it."""
