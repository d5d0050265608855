"""Runs `gpu_cache_cases.py` in a process of its own.

Triton decides at its first import whether kernels are compiled or interpreted, and other tests of
this process import it for real. So CI interprets the kernels in a child; on a GPU the same cases
run compiled, and larger.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def run_cases(**environment: str) -> None:
    cases = Path(__file__).with_name("gpu_cache_cases.py")
    options = ["-q", "-x", "--noconftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(cases)],
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_interpreted() -> None:
    pytest.importorskip("triton")
    run_cases(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_the_gpu() -> None:
    run_cases()
