"""The choice of a backend: forced, automatic, logged once, refused with reasons."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch

from genrec_kernels import dispatch
from genrec_kernels.dispatch import BackendUnavailable, choose_backend, set_backend, use_backend

CPU = torch.device("cpu")
ALL = ("cutlass", "triton", "reference")


def test_automatic_choice_on_a_cpu_is_the_reference() -> None:
    assert choose_backend("op", CPU, ALL) == "reference"


def test_argument_goes_before_context_before_automatic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "backend_problem", lambda backend, device: None)
    with use_backend("triton"):
        assert choose_backend("op", CPU, ALL) == "triton"
        assert choose_backend("op", CPU, ALL, forced="cutlass") == "cutlass"
        with use_backend(None):
            assert choose_backend("op", CPU, ALL) == "reference"
    assert choose_backend("op", CPU, ALL) == "reference"
    set_backend("triton")
    try:
        assert choose_backend("op", CPU, ALL) == "triton"
    finally:
        set_backend(None)


def test_forcing_what_cannot_run_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "interpreting", lambda: False)
    monkeypatch.setattr(dispatch, "_installed", lambda backend: True)
    with pytest.raises(BackendUnavailable, match=r"op: .*'triton'.*NVIDIA GPU.*Force another"):
        choose_backend("op", CPU, ALL, forced="triton")
    monkeypatch.setattr(dispatch, "_installed", lambda backend: False)
    with pytest.raises(BackendUnavailable, match="pip install cuda-bindings"):
        choose_backend("op", CPU, ALL, forced="cutlass")
    monkeypatch.setattr(dispatch, "_installed", lambda backend: True)
    monkeypatch.setattr(dispatch, "compiled_kernels", dict)
    with pytest.raises(BackendUnavailable, match=r"not compiled \(make kernels\)"):
        choose_backend("op", CPU, ALL, forced="cutlass")
    lacking = {"cutlass": "its kernels have no bias"}
    with pytest.raises(BackendUnavailable, match="its kernels have no bias"):
        choose_backend("op", CPU, ALL[1:], forced="cutlass", lacking=lacking)
    with pytest.raises(BackendUnavailable, match="not implemented in it"):
        choose_backend("op", CPU, ("reference",), forced="triton")


def test_a_part_done_for_a_backend_that_the_op_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "backend_problem", lambda backend, device: None)
    offered = ("triton", "reference")
    for forced in ("cutlass", None):
        with use_backend("cutlass"):
            stands_in = choose_backend(
                "op", CPU, offered, forced=forced, instead={"cutlass": "triton"}
            )
            left_open = choose_backend("op", CPU, offered, forced=forced, instead={"cutlass": None})
        assert (stands_in, left_open) == ("triton", "reference")
    assert (
        choose_backend("op", CPU, offered, forced="triton", instead={"cutlass": None}) == "triton"
    )


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), {"reference"}), ((8, 0), {"reference", "triton"}), ((9, 0), set(ALL))],
)
def test_what_each_gpu_can_run(
    capability: tuple[int, int], expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "interpreting", lambda: False)
    monkeypatch.setattr(dispatch, "_installed", lambda backend: True)
    monkeypatch.setattr(dispatch, "compiled_kernels", lambda: {"a kernel": None})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    gpu = torch.device("cuda", 0)
    can = {name for name in dispatch.BACKENDS if dispatch.backend_problem(name, gpu) is None}
    assert can == expected


@pytest.mark.parametrize("force", [set_backend, lambda name: use_backend(name).__enter__()])
def test_unknown_backend(force) -> None:
    with pytest.raises(ValueError, match="no backend 'tritom'; there are reference"):
        force("tritom")


def test_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="genrec_kernels.dispatch"):
        for _ in range(3):
            choose_backend("logged_op", CPU, ALL)
    assert [record.message for record in caplog.records] == ["logged_op on cpu: reference"]


def test_why_a_backend_is_not_used_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "interpreting", lambda: False)
    monkeypatch.setattr(dispatch, "_installed", lambda backend: True)
    monkeypatch.setattr(dispatch, "compiled_kernels", dict)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    dispatch._usable.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="genrec_kernels.dispatch"):
            for _ in range(2):
                assert choose_backend("another_op", torch.device("cuda", 0), ALL) == "triton"
    finally:
        dispatch._usable.cache_clear()
    assert [record.message for record in caplog.records] == [
        "cutlass is not used on cuda:0: its kernels were not compiled (make kernels)",
        "another_op on cuda:0: triton",
    ]


def test_the_package_imports_neither_triton_nor_cutlass() -> None:
    program = (
        "import sys; sys.modules['triton'] = sys.modules['cutlass'] = None\n"
        "import torch, genrec_kernels, genrec_kernels.dispatch as d\n"
        "cpu = torch.device('cpu')\n"
        "assert d.choose_backend('op', cpu, ('cutlass', 'triton', 'reference')) == 'reference'\n"
        "assert 'pip install triton' in d.backend_problem('triton', cpu)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
