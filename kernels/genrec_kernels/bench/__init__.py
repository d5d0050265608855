"""Benchmarks of the kernels; each run appends rows to a CSV file and checks what it times."""
