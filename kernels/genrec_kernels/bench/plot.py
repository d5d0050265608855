"""Draws the attention figures of the records: rates by length, and how near they come to the roof.

    python -m genrec_kernels.bench.plot

Needs matplotlib. Points are all rows, lines go through the medians of a case.
"""

from __future__ import annotations

import csv
import re
import statistics
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from genrec_kernels.bench.attention_inputs import AttentionCase
from genrec_kernels.bench.records import RECORDS

_CASE = re.compile(r"attn-(fwd|bwd)-(uniform|varied)-(\d+)(-bias)?")
_COLOURS = {
    ("cutlass", "fwd", ""): "#12395c",
    ("cutlass", "fwd", "-bias"): "#8c2f0b",
    ("triton", "fwd", ""): "#4f9bd9",
    ("triton", "fwd", "-bias"): "#e59a4f",
    ("triton", "bwd", ""): "#3b8f46",
    ("triton", "bwd", "-bias"): "#a33a5f",
}
_LABELS = {"fwd": "forward", "bwd": "backward", "": "", "-bias": " with position and time bias"}

_NAMES = {"cutlass": "CUTLASS", "triton": "Triton"}

#: (backend, direction, lengths, bias) to longest to rates of all runs.
Series = dict[tuple[str, str, str, str], dict[int, list[float]]]


def read_series(records: Path) -> Series:
    """Rates in TFLOP/s of the 16-bit attention cases with the default heads."""
    series: Series = defaultdict(lambda: defaultdict(list))
    with records.open(newline="") as file:
        for row in csv.DictReader(file):
            found = _CASE.fullmatch(row["case"])
            if found and row["unit"] == "TFLOP/s" and row["dtype"] != "float32":
                direction, lengths, longest, bias = found.groups()
                key = (row["backend"], direction, lengths, bias or "")
                series[key][int(longest)].append(float(row["rate"]))
    return series


def plot(records: Path, image: Path) -> None:
    """Write the picture."""
    figure, panes = plt.subplots(1, 2, figsize=(12.5, 4.2), sharey=True, layout="constrained")
    series = sorted(read_series(records).items(), reverse=True)
    for (backend, direction, lengths, bias), cases in series:
        pane = panes[int(lengths == "varied")]
        colour = _COLOURS[backend, direction, bias]
        longest = sorted(cases)
        pane.plot(
            longest,
            [statistics.median(cases[n]) for n in longest],
            color=colour,
            label=f"{_NAMES[backend]}, {_LABELS[direction]}{_LABELS[bias]}",
        )
        for n in longest:
            pane.plot([n] * len(cases[n]), cases[n], ".", color=colour, markersize=5)
    for pane, lengths in zip(panes, ("all as long", "lengths varied"), strict=True):
        pane.set_xscale("log", base=2)
        pane.set_xticks([1024, 2048, 4096, 8192, 16384], ["1k", "2k", "4k", "8k", "16k"])
        pane.set_xlabel(f"longest sequence, rows ({lengths})")
        pane.grid(alpha=0.3)
        pane.set_ylim(bottom=0)
    panes[0].set_ylabel("TFLOP/s of the causal half")
    panes[1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle("HSTU attention, one H200, bf16, 32 sequences, 4 heads of 128", fontsize=11)
    figure.savefig(image, dpi=130)


def ceilings(records: Path) -> tuple[float, float]:
    """Medians of what a large matrix product (TFLOP/s) and a stream (TB/s) reached."""
    rates: dict[str, list[float]] = defaultdict(list)
    with records.open(newline="") as file:
        for row in csv.DictReader(file):
            rates[row["case"]].append(float(row["rate"] or 0))
    product, stream = rates["ceiling-matmul-8192"], rates["ceiling-stream-4GiB"]
    return statistics.median(product), statistics.median(stream)


def plot_roofline(records: Path, image: Path) -> None:
    """Forward without bias against what the GPU's products and memory allow.

    Operations are those of the causal half; bytes are q, k, v and the output, each moved once.
    """
    product, stream = ceilings(records)
    figure, pane = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    intensities = [2**i for i in range(4, 14)]
    roof = [min(product, stream * x) for x in intensities]
    pane.plot(intensities, roof, color="#555555", label="matrix product and stream, measured")
    marks = {"uniform": "o", "varied": "^"}
    for (backend, direction, lengths, bias), cases in sorted(read_series(records).items()):
        if direction != "fwd" or bias:
            continue
        shapes = [
            AttentionCase(direction="fwd", lengths=lengths, longest=longest) for longest in cases
        ]
        moved = [sum(x.rows) * x.heads * x.width * 2 * 4 for x in shapes]
        pane.plot(
            [x.flops / y for x, y in zip(shapes, moved, strict=True)],
            [statistics.median(rates) for rates in cases.values()],
            marks[lengths],
            color=_COLOURS[backend, direction, bias],
            label=f"{_NAMES[backend]}, {'all as long' if lengths == 'uniform' else 'varied'}",
        )
    pane.set_xscale("log", base=2)
    pane.set_yscale("log", base=2)
    pane.set_yticks([64, 128, 256, 512, 1024], ["64", "128", "256", "512", "1024"])
    pane.set_xlabel("operations a byte")
    pane.set_ylabel("TFLOP/s")
    pane.grid(alpha=0.3)
    pane.legend(frameon=False, loc="lower right")
    pane.set_title(
        "HSTU attention forward, one H200, bf16, 32 sequences, 4 heads of 128", fontsize=10
    )
    figure.savefig(image, dpi=130)


if __name__ == "__main__":
    plot(RECORDS, RECORDS.with_name("attention.png"))
    plot_roofline(RECORDS, RECORDS.with_name("roofline.png"))
