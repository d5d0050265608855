"""A run's summary as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """Recommendations, metrics, engines and the canary's steps."""
    print_recommendations(console, summary)
    print_metrics(console, summary)
    print_engines(console, summary)
    print_rollout(console, summary)


def print_recommendations(console: Console, summary: Mapping[str, Any]) -> None:
    """What the served model recommends to some users."""
    tasks = list(summary["model"]["tasks"])
    for user in summary["recommendations"]:
        seen = ", ".join(user["last_titles"])
        table = Table(
            "#",
            "title",
            *tasks,
            title=f"user {user['user_id']}, last seen: {seen}",
            title_justify="left",
        )
        for rank, item in enumerate(user["items"], start=1):
            table.add_row(str(rank), item["title"], *(f"{item['tasks'][t]:.2f}" for t in tasks))
        console.print(table)


def print_metrics(console: Console, summary: Mapping[str, Any]) -> None:
    """Retrieval beside popularity, and the tasks."""
    model = summary["model"]
    table = Table(
        "model", "HR@10", "NDCG@10", title="test period, full catalogue", title_justify="left"
    )
    table.add_row("HSTU", f"{model['hr_10']:.4f}", f"{model['ndcg_10']:.4f}")
    table.add_row("popularity", f"{model['popularity_hr_10']:.4f}", "")
    if model["champion_hr_10"] is not None:
        table.add_row("champion before", f"{model['champion_hr_10']:.4f}", "")
    console.print(table)
    table = Table("task", "AUC", "log loss", "calibration", title="tasks", title_justify="left")
    for name, metrics in model["tasks"].items():
        row = [metrics.get(key) for key in ("auc", "log_loss", "calibration")]
        table.add_row(name, *("-" if value is None else f"{value:.3f}" for value in row))
    for name, reason in model["unlabelled"].items():
        table.add_row(name, "left out:", reason)
    console.print(table)


def print_engines(console: Console, summary: Mapping[str, Any]) -> None:
    """Engines, and which of them were run."""
    table = Table(
        "engine",
        "precision",
        "size",
        "executed",
        "error",
        title="engines (error: largest difference from PyTorch)",
        title_justify="left",
    )
    for engine in summary["engines"]:
        own = engine["max_abs_error"]
        table.add_row(
            engine["backend"],
            engine["precision"],
            f"{engine['bytes'] / 1e6:.1f} MB",
            "yes" if engine["executed"] else "no",
            f"{own:.1e}" if own is not None else f"graph {engine['graph_max_abs_error']:.1e}",
        )
    console.print(table)


def print_rollout(console: Console, summary: Mapping[str, Any]) -> None:
    """The canary's steps and how it ended."""
    rollout, registry = summary["rollout"], summary["mlflow"]
    table = Table(
        "share",
        "requests",
        "errors",
        "p95",
        "decision",
        title=f"canary of {registry['model_name']} version {registry['model_version']}",
        title_justify="left",
    )
    for step in rollout["steps"]:
        p95 = step["p95_ms"]
        table.add_row(
            f"{step['percent']} %",
            str(step["requests"]),
            str(step["errors"]),
            "-" if p95 is None else f"{p95:.1f} ms",
            step["decision"],
        )
    if rollout["steps"]:
        console.print(table)
    aliases = ", ".join(f"{alias} → version {v}" for alias, v in registry["aliases"].items())
    console.print(f"{rollout['reason']}; aliases: {aliases or 'none'}", highlight=False)
