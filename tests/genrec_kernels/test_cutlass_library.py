"""Compiled kernels on disk, and the counters that their blocks claim work from."""

from __future__ import annotations

import ctypes
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genrec_kernels.cutlass.claims import ClaimCounters
from genrec_kernels.cutlass.hstu_attention import turns_of, unsupported
from genrec_kernels.cutlass.library import CompiledKernel, _attributes, compiled_kernels
from genrec_kernels.cutlass.linear_variants import LinearTile, LinearVariant
from genrec_kernels.cutlass.packed_parameters import PackedParameters
from genrec_kernels.cutlass.parameters import Boxes, Memory, Sizes
from genrec_kernels.cutlass.variants import SHORT_ROWS, AttentionVariant, all_variants, variant_of
from genrec_kernels.relative_bias import RelativeBias

KERNEL = CompiledKernel(
    variant=variant_of("bf16", 128, bias=True, window=False),
    function="kernel_of_that",
    threads=512,
    shared_bytes=100_000,
    software="some compiler 1.0",
)
LINEAR = LinearVariant(
    element="fp8",
    adds=True,
    tile=LinearTile(rows=128, columns=96, stages=5, cluster_rows=2),
)


def test_a_kernel_is_found_again(tmp_path: Path) -> None:
    kernel = replace(KERNEL, folder=tmp_path / "kernels")
    kernel.write(b"machine code")
    assert compiled_kernels(tmp_path / "kernels") == {kernel.variant.name: kernel}
    files = {path.name for path in (tmp_path / "kernels").iterdir()}
    assert files == {f"{kernel.variant.name}.cubin", f"{kernel.variant.name}.json"}


@pytest.mark.parametrize("variant", [KERNEL.variant, LINEAR], ids=["attention", "linear"])
def test_kinds_are_told_apart(tmp_path: Path, variant: AttentionVariant | LinearVariant) -> None:
    kernel = replace(KERNEL, variant=variant, cluster=2, folder=tmp_path)
    kernel.write(b"machine code")
    assert compiled_kernels(tmp_path) == {variant.name: kernel}


def test_descriptions_from_before_there_were_kinds(tmp_path: Path) -> None:
    kernel = replace(KERNEL, folder=tmp_path)
    kernel.write(b"machine code")
    (path,) = tmp_path.glob("*.json")
    fields = json.loads(path.read_text())
    del fields["kind"], fields["cluster"]
    path.write_text(json.dumps(fields))
    assert compiled_kernels(tmp_path) == {kernel.variant.name: kernel}


def test_a_kind_that_is_not_known(tmp_path: Path) -> None:
    replace(KERNEL, folder=tmp_path).write(b"machine code")
    (path,) = tmp_path.glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": "of tomorrow"}))
    assert compiled_kernels(tmp_path) == {}


def test_a_kernel_that_was_not_written_whole_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = replace(KERNEL, folder=tmp_path)
    write = Path.write_bytes

    def fail_on_the_description(path: Path, data: bytes) -> int:
        if ".json" in path.name:
            raise OSError("disk full")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fail_on_the_description)
    with pytest.raises(OSError, match="disk full"):
        kernel.write(b"machine code")
    assert compiled_kernels(tmp_path) == {}


@pytest.mark.parametrize("part", ["variant", "tile"])
@pytest.mark.parametrize(("value", "taken"), [(False, True), (True, False)])
def test_a_kernel_of_another_version(tmp_path: Path, value: bool, taken: bool, part: str) -> None:
    """It has an option that is not known here; where that is off, the kernel is the same."""
    kernel = replace(KERNEL, variant=LINEAR, folder=tmp_path)
    kernel.write(b"machine code")
    (path,) = tmp_path.glob("*.json")
    fields = json.loads(path.read_text())
    options = fields["variant"] if part == "variant" else fields["variant"]["tile"]
    options["an_option"] = value
    path.write_text(json.dumps(fields))
    assert compiled_kernels(tmp_path) == ({kernel.variant.name: kernel} if taken else {})


def test_short_sequences_have_tiles_of_their_own_where_they_pay() -> None:
    short = variant_of("bf16", 64, bias=False, window=False, max_rows=SHORT_ROWS)
    long = variant_of("bf16", 64, bias=False, window=False, max_rows=SHORT_ROWS + 1)
    assert short.short
    assert not long.short
    assert variant_of("bf16", 64, bias=False, window=False) == long
    assert not variant_of("bf16", 128, bias=False, window=False, max_rows=10).short
    assert {short, long} <= set(all_variants())


@pytest.mark.parametrize(
    ("dtype", "widths", "buckets", "max_rows", "reason"),
    [
        (torch.float32, (64, 64), 0, 99, "bfloat16 and float16"),
        (torch.bfloat16, (96, 96), 0, 99, "heads of 64, 128, 256"),
        (torch.bfloat16, (64, 128), 0, 99, "values as wide as keys"),
        (torch.bfloat16, (64, 64), 100, 99, "at most 67 time buckets, not 100"),
        (torch.float16, (256, 256), 64, 99, None),
        (torch.bfloat16, (64, 64), 64, 25_000, None),
        (torch.bfloat16, (64, 64), 64, 26_000, "of 26000 rows would take more than 640 MiB"),
        (torch.bfloat16, (64, 64), 0, 26_000, None),
    ],
)
def test_what_no_kernel_takes(
    dtype: torch.dtype, widths: tuple[int, int], buckets: int, max_rows: int, reason: str | None
) -> None:
    q, v = (torch.empty(5, 2, width, dtype=dtype) for width in widths)
    bias = None
    if buckets:
        bias = RelativeBias(torch.empty(9), torch.empty(buckets), torch.empty(buckets + 1))
    found = unsupported(q, v, bias=bias, max_rows=max_rows)
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(
    ("num_sequences", "at_once", "sizes"),
    [(1, 1, [1]), (32, 9, [8, 8, 8, 8]), (10, 4, [4, 4, 2]), (7, 100, [7]), (3, 1, [1, 1, 1])],
)
def test_sequences_take_turns(num_sequences: int, at_once: int, sizes: list[int]) -> None:
    turns = turns_of(num_sequences, at_once)
    assert [len(turn) for turn in turns] == sizes
    assert [n for turn in turns for n in turn] == list(range(num_sequences))


def test_launches_of_a_stream_share_a_counter_and_graphs_do_not() -> None:
    counters = ClaimCounters(torch.device("cpu"))
    # Captured before anything ran: the graph gets one that it clears itself.
    assert counters.take(1, capturing=True).tolist() == [0]
    first = counters.take(1, capturing=False)
    taken = [
        counters.take(1, capturing=False),
        counters.take(2, capturing=False),
        counters.take(1, capturing=True),
        counters.take(1, capturing=True),
    ]
    assert taken[0].data_ptr() == first.data_ptr()
    assert len({x.data_ptr() for x in taken}) == 4
    assert all(x.shape == (1,) and x.dtype == torch.int32 for x in taken)


def test_attributes_of_a_launch() -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings launch kernels")
    assert _attributes(driver, 1) == []
    (cluster,) = _attributes(driver, 4)
    names = driver.CUlaunchAttributeID
    assert cluster.id == names.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    size = cluster.value.clusterDim
    assert (size.x, size.y, size.z) == (4, 1, 1)


def test_parameters_as_the_driver_reads_them() -> None:
    class Descriptor:
        def getPtr(self) -> int:  # noqa: N802  # the driver's name
            return 0x1230

    rows = torch.zeros(3, 4, 64, dtype=torch.bfloat16)
    packed = PackedParameters(
        [Boxes(rows, 64), Sizes((3, 4)), Memory(rows, (7, -8)), Memory(rows), 5, -1, 0.5],
        lambda _: Descriptor(),
    )
    addresses = (ctypes.c_uint64 * 7).from_address(packed.address)
    assert addresses[0] == 0x1230
    assert all(address % 8 == 0 for address in addresses)

    def read(place: int, form: str) -> tuple[object, ...]:
        return struct.unpack(form, ctypes.string_at(addresses[place], struct.calcsize(form)))

    assert read(1, "<2q") == (3, 4)
    assert read(2, "<Q2q") == (rows.data_ptr(), 7, -8)
    assert read(3, "<Q") == (rows.data_ptr(),)
    assert [read(place, "<i") for place in (4, 5)] == [(5,), (-1,)]
    assert read(6, "<f") == (0.5,)
