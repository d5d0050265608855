"""Runs Hopper kernels from their PTX on a CPU, slowly: for tests where there is no GPU.

What Triton's interpreter is to Triton kernels, this is to CUTLASS ones. It covers the part of the
PTX ISA that they use: warps that diverge, barriers in shared memory, the tensor memory
accelerator, WGMMA. Asynchronous copies and products happen as late as the program allows, or at
random moments, and warps run in random order, so a missing wait gives a wrong result.

It cannot show everything: fences between proxies and time are not modelled.
"""

from genrec_kernels.ptx_emulator.kernel import Kernel, TensorMap

__all__ = ["Kernel", "TensorMap"]
