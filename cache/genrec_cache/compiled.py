"""Numba where it is installed, plain Python where it is not: same results, many times slower."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, compiled if numba is there; numba is loaded by this call."""
    try:
        import numba  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return function
    out: Callable[P, R] = numba.njit(function)
    return out
