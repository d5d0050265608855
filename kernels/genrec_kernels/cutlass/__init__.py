"""CUTLASS (CuTe DSL) kernels for Hopper, compiled ahead of time: see `build` and `library`."""
