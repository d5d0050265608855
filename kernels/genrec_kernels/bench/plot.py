"""Draws the attention figures of the records.

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

from genrec_kernels.bench.records import RECORDS

_CASE = re.compile(r"attn-(fwd|bwd)-(uniform|varied)-(\d+)(-bias)?")
_COLOURS = {
    ("fwd", ""): "#1f6fb4",
    ("fwd", "-bias"): "#d1701b",
    ("bwd", ""): "#3b8f46",
    ("bwd", "-bias"): "#a33a5f",
}
_LABELS = {"fwd": "forward", "bwd": "backward", "": "", "-bias": " with position and time bias"}

#: (direction, lengths, bias) to longest to rates of all runs.
Series = dict[tuple[str, str, str], dict[int, list[float]]]


def read_series(records: Path) -> Series:
    """Rates in TFLOP/s of the 16-bit attention cases with the default heads."""
    series: Series = defaultdict(lambda: defaultdict(list))
    with records.open(newline="") as file:
        for row in csv.DictReader(file):
            found = _CASE.fullmatch(row["case"])
            if found and row["unit"] == "TFLOP/s":
                direction, lengths, longest, bias = found.groups()
                series[direction, lengths, bias or ""][int(longest)].append(float(row["rate"]))
    return series


def plot(records: Path, image: Path) -> None:
    """Write the picture."""
    figure, panes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for (direction, lengths, bias), cases in sorted(read_series(records).items(), reverse=True):
        pane = panes[int(lengths == "varied")]
        colour = _COLOURS[direction, bias]
        longest = sorted(cases)
        pane.plot(
            longest,
            [statistics.median(cases[n]) for n in longest],
            color=colour,
            label=_LABELS[direction] + _LABELS[bias],
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
    panes[0].legend(frameon=False, loc="lower right")
    figure.suptitle("HSTU attention, one H200, bf16, 32 sequences, 4 heads of 128", fontsize=11)
    figure.savefig(image, dpi=130)


if __name__ == "__main__":
    plot(RECORDS, RECORDS.with_name("attention.png"))
