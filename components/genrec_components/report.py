"""Step: one page and one JSON file about the whole run."""

from kfp import dsl

from genrec_components.base import component


@component
def make_report(
    data: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    validation_report: dsl.Input[dsl.HTML],
    features: dsl.Input[dsl.Dataset],
    trained: dsl.Input[dsl.Model],
    evaluated: dsl.Input[dsl.Model],
    exported: dsl.Input[dsl.Model],
    built: dsl.Input[dsl.Model],
    rollout: dsl.Input[dsl.Artifact],
    run_id: str,
    model_name: str,
    version: str,
    summary: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Summarise the run and draw its report."""
    from pathlib import Path

    from genrec_components.base import step
    from genrec_model.artifact import Artifact
    from genrec_model.files import read_json, write_json
    from genrec_model.registry.tracking import log_files
    from genrec_model.report.page import write_report
    from genrec_model.report.summary import summarise

    with step("report", summary):
        artifact = Artifact(Path(built.path))
        steps = {
            "ingest": data,
            "validate": validation,
            "features": features,
            "train": trained,
            "evaluate": evaluated,
            "export_onnx": exported,
            "build_engines": built,
            "roll_out": rollout,
        }
        values = summarise(
            artifact,
            validation=read_json(Path(validation.path)),
            validation_report=validation_report.path,
            events=str(Path(data.path) / "events.parquet"),
            rollout=read_json(Path(rollout.path)),
            run_id=run_id,
            model_name=model_name,
            version=version,
            seconds={
                name: artifact.metadata.get("seconds", 0.0) for name, artifact in steps.items()
            },
        )
        write_json(Path(summary.path), values)
        write_report(artifact, values, Path(validation.path), Path(report.path))
        pages = {"report.html": report.path, "validation.html": validation_report.path}
        log_files(run_id, {**pages, "summary.json": summary.path})
