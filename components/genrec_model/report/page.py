"""``report.html``: the run for people, one file without anything to fetch."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genrec_model.artifact import Artifact
from genrec_model.engines.build import engine_records
from genrec_model.files import read_json, replacing
from genrec_model.report import plots


def write_report(
    artifact: Artifact, summary: Mapping[str, Any], validation: Path, target: Path
) -> None:
    """Draw the page.

    Args:
        artifact: complete.
        summary: from `summarise`.
        validation: the data gate's verdict, a JSON file.
        target: the page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    metrics, training = artifact.metrics, artifact.training
    drawings = {
        "retrieval": plots.retrieval_bars(metrics["retrieval"]),
        "slices": plots.slice_bars(metrics["slices"]),
    }
    if training.get("history"):
        drawings["training"] = plots.training_curves(training["history"])
    if metrics["tasks"]:
        drawings["calibration"] = plots.calibration(metrics["tasks"])
    if summary["rollout"]["steps"]:
        drawings["rollout"] = plots.rollout_steps(summary["rollout"]["steps"])
    environment = Environment(
        loader=PackageLoader("genrec_model.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        summary=summary,
        metrics=metrics,
        spec=artifact.dataset.spec,
        config=artifact.config,
        training=training,
        parity=artifact.parity,
        engines=engine_records(artifact),
        validation=read_json(validation),
        plots={name: Markup(drawing) for name, drawing in drawings.items()},
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    with replacing(target) as temporary:
        temporary.write_text(page)
