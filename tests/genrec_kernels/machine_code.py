"""The machine code of a compiled CUTLASS kernel."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from genrec_kernels.cutlass.build import BuiltKernel

#: Moves to a warp's registers, of a kernel that keeps its places in the rings there: 7 to 39.
#: Where ptxas kept them in every lane's, there were 44 to 139, most of them before products.
MOST_MOVES = 42


def moves_to_uniform_registers(sass: str) -> int:
    """How many there are; products take their operands' places from such registers."""
    return len(re.findall(r"\bR2UR\b", sass))


def disassembled(kernel: BuiltKernel, folder: Path) -> str:
    """Its SASS; the test is skipped where there is no disassembler."""
    triton = pytest.importorskip("triton", reason="its wheel brings nvdisasm")
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    if not tool.exists():
        pytest.skip("this Triton has no nvdisasm")
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.cubin)
    return subprocess.run([tool, "-c", cubin], check=True, capture_output=True, text=True).stdout
