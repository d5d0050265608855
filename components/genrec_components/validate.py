"""Step: the data gate (Great Expectations)."""

from kfp import dsl

from genrec_components.base import component


@component
def validate(
    data: dsl.Input[dsl.Dataset],
    limits: str,
    result: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Judge the data and write the report; fail, naming the expectations, where it is refused."""
    import shutil
    from pathlib import Path

    from genrec_components.base import step
    from genrec_model.data.stored import read_dataset
    from genrec_model.files import write_json
    from genrec_model.options import parse_options
    from genrec_model.settings import settings
    from genrec_model.validation.gate import require_valid, validate_dataset
    from genrec_model.validation.limits import ValidationLimits

    with step("validate", result):
        bounds = parse_options(ValidationLimits, limits, "validation")
        verdict = validate_dataset(read_dataset(Path(data.path)), Path(report.path), limits=bounds)
        write_json(Path(result.path), verdict.to_dict())
        starter = settings().error_file
        if not verdict.success and starter is not None:
            # A failed step's artifacts are dropped: keep the page where the starter looks.
            shutil.copyfile(report.path, starter.with_name("validation.html"))
        require_valid(verdict)
