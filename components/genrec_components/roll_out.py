"""Step: canary the challenger, then promote it or roll it back."""

from kfp import dsl

from genrec_components.base import component


@component
def roll_out(
    data: dsl.Input[dsl.Dataset],
    model_name: str,
    version: str,
    plan: str,
    target: str,
    result: dsl.Output[dsl.Artifact],
) -> None:
    """Deploy a version next to the champion and move traffic to it, judged step by step.

    The target ``local`` starts model servers on this machine and walks the whole plan; ``kserve``
    applies the InferenceService with the first step's share, from where `genrec rollout` goes on;
    ``none`` leaves the version registered as the challenger.
    """
    from pathlib import Path

    from genrec_components.base import step
    from genrec_model.files import write_json
    from genrec_model.options import parse_options
    from genrec_serving.rollout.deploy import deploy
    from genrec_serving.rollout.plan import RolloutPlan

    with step("roll_out", result):
        outcome = deploy(
            model_name,
            version,
            target=target,
            plan=parse_options(RolloutPlan, plan, "rollout"),
            events=Path(data.path) / "events.parquet",
            log_folder=Path(result.path).parent / "servers",
        )
        write_json(Path(result.path), outcome)
