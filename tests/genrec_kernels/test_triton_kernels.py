"""Runs the suites of the Triton kernels (`*_cases.py`) in processes of their own.

Triton decides at its first import whether kernels are compiled or interpreted, and other tests of
this process import it for real. So CI interprets the kernels in a child; on a GPU the same suites
run compiled, and larger.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SUITES = sorted(Path(__file__).parent.glob("*_cases.py"))


def run_suite(suite: Path, **environment: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "--noconftest",
            "-p",
            "no:cacheprovider",
            str(suite),
        ],
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
def test_interpreted(suite: Path) -> None:
    pytest.importorskip("triton")
    # One thread each: the interpreter's arrays are too small for more to help.
    run_suite(suite, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
def test_on_the_gpu(suite: Path) -> None:
    run_suite(suite)
