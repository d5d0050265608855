"""Which implementation of an op runs: plain PyTorch, Triton or CUTLASS.

An op asks `choose_backend` at every call, with the backends that it has, best first::

    backend = choose_backend("top_k", x.device, ("triton", "reference"), forced=backend)

Nothing here imports Triton or CUTLASS before an op could use it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Literal, get_args

import torch

from genrec_kernels.cutlass.library import compiled_kernels

Backend = Literal["reference", "triton", "cutlass"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

#: What a backend needs to run. Compiled CUTLASS kernels need the driver's bindings alone.
_MODULES: dict[Backend, str] = {
    "reference": "torch",
    "triton": "triton",
    "cutlass": "cuda.bindings",
}

_log = logging.getLogger(__name__)
_preferred: ContextVar[Backend | None] = ContextVar("genrec_kernels_backend", default=None)


class BackendUnavailable(RuntimeError):
    """A backend was forced that cannot run here; the message says why and what to do."""


def set_backend(backend: Backend | None) -> None:
    """Force a backend for this thread's calls from here on; None chooses automatically again.

    Raises:
        ValueError: there is no such backend.
    """
    _preferred.set(None if backend is None else _known(backend))


@contextmanager
def use_backend(backend: Backend | None) -> Iterator[None]:
    """Force a backend inside a ``with`` block (None: choose automatically there).

    Raises:
        ValueError: there is no such backend.
    """
    token = _preferred.set(None if backend is None else _known(backend))
    try:
        yield
    finally:
        _preferred.reset(token)


def choose_backend(
    op: str,
    device: torch.device,
    offered: Sequence[Backend],
    *,
    forced: str | None = None,
    lacking: Mapping[Backend, str] | None = None,
    instead: Mapping[Backend, Backend | None] | None = None,
) -> Backend:
    """The backend that a call of `op` on `device` uses; each choice is logged once.

    Args:
        op: name of the op, for the log and for errors.
        device: where the op's inputs are.
        offered: what the op is implemented in, best first.
        forced: a backend that must be used. It goes before `use_backend`, which goes before the
            automatic choice: the first that is offered and can run.
        lacking: why a backend is not offered for these inputs, where the op has it for others.
        instead: where a backend is forced that the op does a part for without having it, the one
            that is forced in its place; None leaves the choice open.

    Raises:
        ValueError: `forced` is no backend.
        BackendUnavailable: the forced backend is not offered or cannot run on `device`.
    """
    wanted = _preferred.get() if forced is None else _known(forced)
    if instead is not None and wanted is not None and wanted in instead:
        wanted = instead[wanted]
    if wanted is None:
        chosen = next(name for name in offered if name in _usable(device.type, device.index))
    else:
        chosen = wanted
        if wanted in offered:
            problem = backend_problem(wanted, device)
        elif lacking is not None and wanted in lacking:
            problem = lacking[wanted]
        else:
            problem = f"{op} is not implemented in it (it has: {', '.join(offered)})"
        if problem is not None:
            raise BackendUnavailable(
                f"{op}: backend {wanted!r} was forced and cannot run on {device}: {problem}. "
                "Force another backend, or none, which chooses what runs."
            )
    _log_once(op, chosen, str(device), wanted is not None)
    return chosen


def backend_problem(backend: Backend, device: torch.device) -> str | None:
    """Why a backend cannot run on a device, with a remedy; None if it can."""
    if backend == "reference":
        return None
    if not _installed(backend):
        package = {"triton": "triton", "cutlass": "cuda-bindings"}[backend]
        return f"{package} is not installed (pip install {package})"
    if backend == "cutlass" and not compiled_kernels():
        return "its kernels were not compiled (make kernels)"
    if backend == "triton" and interpreting():
        return None
    if device.type != "cuda":
        return f"it needs tensors on an NVIDIA GPU, not on {device.type!r}"
    major, minor = torch.cuda.get_device_capability(device)
    if backend == "cutlass" and (major, minor) != (9, 0):
        return f"its kernels are built for compute capability 9.0 (H100, H200), not {major}.{minor}"
    if major < 8:
        return f"it needs compute capability 8.0 (A100) or later, not {major}.{minor}"
    return None


def interpreting() -> bool:
    """Whether Triton runs kernels in its CPU interpreter, as the tests without a GPU do."""
    if not _installed("triton"):
        return False
    return bool(import_module("triton").knobs.runtime.interpret)


def _known(backend: str) -> Backend:
    for name in BACKENDS:
        if name == backend:
            return name
    raise ValueError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")


@cache
def _installed(backend: Backend) -> bool:
    try:
        import_module(_MODULES[backend])
    except ImportError:
        return False
    return True


@cache
def _usable(device_type: str, index: int | None) -> frozenset[Backend]:
    """What the automatic choice picks from: the interpreter is only ever used on demand."""
    if device_type != "cuda":
        return frozenset({"reference"})
    device = torch.device(device_type, index or 0)
    problems = {name: backend_problem(name, device) for name in BACKENDS}
    for name, problem in problems.items():
        if problem is not None:
            _log.info("%s is not used on %s: %s", name, device, problem)
    return frozenset(name for name, problem in problems.items() if problem is None)


@cache
def _log_once(op: str, backend: Backend, device: str, forced: bool) -> None:
    _log.info("%s on %s: %s%s", op, device, backend, " (forced)" if forced else "")
