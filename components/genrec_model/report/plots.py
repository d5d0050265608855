"""Plots of the report, as SVG that stands in the page itself."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Distinguishable without colour vision (Okabe and Ito).
COLOURS = {"hstu": "#0072B2", "popularity": "#999999", "champion": "#E69F00"}
_CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def training_curves(history: Sequence[Mapping[str, float]]) -> str:
    """Loss and validation metrics by epoch."""
    figure, (left, right) = _figure(columns=2)
    epochs = range(1, len(history) + 1)
    left.plot(epochs, [r["next_item_loss"] for r in history], "o-", color=_CYCLE[0])
    left.set(title="Next-item loss (training)", xlabel="epoch", ylabel="nats")
    for name, label, colour in (
        ("val_hr_10", "HR@10", _CYCLE[0]),
        ("val_ndcg_10", "NDCG@10", _CYCLE[1]),
    ):
        right.plot(epochs, [r[name] for r in history], "o-", color=colour, label=label)
    right.set(title="Validation period", xlabel="epoch", ylim=(0, None))
    right.legend(frameon=False)
    _count_along(len(history), left, right)
    return _svg(figure)


def retrieval_bars(retrieval: Mapping[str, Mapping[str, float]]) -> str:
    """HR and NDCG at each cutoff, for the model and what it is compared with."""
    figure, panels = _figure(columns=2)
    for axes, metric, title in zip(panels, ("hr", "ndcg"), ("Hit rate", "NDCG"), strict=True):
        width = 0.8 / len(retrieval)
        for index, (name, values) in enumerate(retrieval.items()):
            heights = [values[f"{metric}_{cutoff}"] for cutoff in (10, 50, 200)]
            places = [i + (index - (len(retrieval) - 1) / 2) * width for i in range(3)]
            bars = axes.bar(places, heights, width, color=COLOURS[name], label=name)
            axes.bar_label(bars, fmt="%.3f", fontsize=7, padding=1)
        axes.set_xticks(range(3), ["@10", "@50", "@200"])
        axes.set(title=title, ylim=(0, axes.get_ylim()[1] * 1.08))
    panels[0].legend(frameon=False, loc="upper left")
    return _svg(figure)


def calibration(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Share of positives against the predicted probability, in bins of equally many events."""
    figure, (axes,) = _figure(columns=1, width=4.6, height=4.0)
    axes.plot([0, 1], [0, 1], "--", color="#bbbbbb", linewidth=1)
    for index, (name, metrics) in enumerate(tasks.items()):
        bins = metrics.get("bins", [])
        axes.plot(
            [b["predicted"] for b in bins],
            [b["observed"] for b in bins],
            "o-",
            color=_CYCLE[index],
            label=name,
        )
    axes.set(title="Calibration", xlabel="predicted", ylabel="observed", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, loc="upper left")
    return _svg(figure)


def slice_bars(slices: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """HR@10 of the model and of popularity in parts of the test period."""
    figure, (axes,) = _figure(columns=1, width=6.4, height=4.0)
    names = list(slices["hstu"])
    for offset, kind in ((0.2, "hstu"), (-0.2, "popularity")):
        values = [slices[kind][name]["hr_10"] for name in names]
        places = [i + offset for i in range(len(names))]
        bars = axes.barh(places, values, 0.38, color=COLOURS[kind], label=kind)
        axes.bar_label(bars, fmt="%.3f", fontsize=7, padding=2)
    labels = [f"{name}\n({int(slices['hstu'][name]['targets']):,} events)" for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set(title="HR@10 by slice", xlim=(0, axes.get_xlim()[1] * 1.12))
    axes.legend(frameon=False, loc="best")
    return _svg(figure)


def rollout_steps(steps: Sequence[Mapping[str, Any]]) -> str:
    """Traffic and latency at each judged step."""
    figure, (left, right) = _figure(columns=2)
    places = range(1, len(steps) + 1)
    left.step(places, [s["percent"] for s in steps], where="mid", color=_CYCLE[0])
    left.plot(places, [s["percent"] for s in steps], "o", color=_CYCLE[0])
    left.set(title="Users on the challenger", xlabel="judgement", ylabel="%", ylim=(0, 105))
    right.plot(
        places, [s["p95_ms"] for s in steps], "o-", color=COLOURS["hstu"], label="challenger"
    )
    stable = [(p, s["stable"]["p95_ms"]) for p, s in zip(places, steps, strict=True) if s["stable"]]
    if stable:
        right.plot(*zip(*stable, strict=True), "o-", color=COLOURS["champion"], label="champion")
    right.set(title="p95 latency", xlabel="judgement", ylabel="ms", ylim=(0, None))
    right.legend(frameon=False)
    _count_along(len(steps), left, right)
    return _svg(figure)


def _figure(
    *, columns: int, width: float = 9.6, height: float = 3.4
) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#eeeeee")
        panel.set_axisbelow(True)
    return figure, list(axes)


def _count_along(count: int, *panels: Axes) -> None:
    """Whole numbers from 1 to `count` along the x axis, even if there is only one."""
    from matplotlib.ticker import MultipleLocator

    for axes in panels:
        axes.set_xlim(0.5, count + 0.5)
        axes.xaxis.set_major_locator(MultipleLocator(max(count // 10, 1)))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
