"""The machine code of a compiled CUTLASS kernel."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from genrec_kernels.cutlass.build import BuiltKernel


def disassembled(kernel: BuiltKernel, folder: Path) -> str:
    """Its SASS; the test is skipped where there is no disassembler."""
    triton = pytest.importorskip("triton", reason="its wheel brings nvdisasm")
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    if not tool.exists():
        pytest.skip("this Triton has no nvdisasm")
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.cubin)
    return subprocess.run([tool, "-c", cubin], check=True, capture_output=True, text=True).stdout
