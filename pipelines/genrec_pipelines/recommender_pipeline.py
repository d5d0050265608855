"""The Kubeflow pipeline: from raw interactions to a promoted recommender.

::

    ingest ─► validate ─► features ─► train | load ─► evaluate ─► ONNX ─► engines ─┐
                                            champion ────┘                         │
                                    report ◄─ roll out ◄─ register ◄───────────────┘

Every step is cached by its inputs, except those that look at or move the registry's aliases.
"""

from typing import Any, NamedTuple

from kfp import dsl

from genrec_components.build_engines import build_engines
from genrec_components.evaluate import evaluate
from genrec_components.export_onnx import export_onnx
from genrec_components.find_champion import find_champion
from genrec_components.ingest import ingest
from genrec_components.make_features import make_features
from genrec_components.register import register
from genrec_components.report import make_report
from genrec_components.roll_out import roll_out
from genrec_components.train_or_load import train_or_load
from genrec_components.validate import validate
from genrec_pipelines.cluster import Cluster

PIPELINE_NAME = "genrec"


class Outputs(NamedTuple):
    """What a run leaves."""

    summary: dsl.Artifact
    report: dsl.HTML


def build_pipeline(cluster: Cluster | None = None) -> Any:
    """The pipeline, for this machine or with a cluster's volumes, secrets and resources."""

    def placed(task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
        return cluster.place(task, name) if cluster is not None else task

    @dsl.pipeline(  # type: ignore[untyped-decorator]
        name=PIPELINE_NAME,
        description="HSTU generative recommender: raw interactions to a promoted model",
    )
    def recommender(
        dataset: str,
        path: str = "",
        columns: list[str] = [],  # noqa: B006  a pipeline's default, never mutated
        cache_key: str = "",
        model_name: str = "hstu",
        train_model: bool = True,
        model_uri: str = "",
        engines: list[str] = ["onnxruntime-fp32", "tensorrt-rtx-fp16"],  # noqa: B006
        validation_limits: str = "",
        feature_options: str = "",
        model_options: str = "",
        training_options: str = "",
        evaluation_options: str = "",
        rollout_plan: str = "",
        target: str = "kserve",
    ) -> Outputs:
        """Validate, train or load, evaluate, export, build, register and roll out.

        Args:
            dataset: name of the data set's adapter.
            path: where its files are; empty for the adapter's own place.
            columns: for the adapter ``columns``, ``name=column`` each.
            cache_key: changes with the source files, so that the steps are not cached wrongly.
            model_name: registered model.
            train_model: train a new model, or load `model_uri`.
            model_uri: ``models:/name@alias`` or ``models:/name/version``.
            engines: ``backend-precision`` each.
            validation_limits: JSON object of limits of the data gate.
            feature_options: JSON object of feature options.
            model_options: JSON object, shape of the model.
            training_options: JSON object of training options.
            evaluation_options: JSON object, evaluation and its gate.
            rollout_plan: JSON object, the canary's steps and SLOs.
            target: ``kserve``, ``local`` or ``none``.
        """
        ingested = placed(
            ingest(dataset=dataset, path=path, columns=columns, cache_key=cache_key), "ingest"
        )
        data = ingested.outputs["data"]
        validated = placed(validate(data=data, limits=validation_limits), "validate")
        made = placed(
            make_features(
                data=data, validation=validated.outputs["result"], options=feature_options
            ),
            "features",
        )
        features = made.outputs["features"]
        champion = placed(find_champion(model_name=model_name), "find_champion")
        champion.set_caching_options(False)

        trained = placed(
            train_or_load(
                features=features,
                train_model=train_model,
                model_uri=model_uri,
                model_name=model_name,
                model_options=model_options,
                training_options=training_options,
            ),
            "train",
        )
        model, run_id = trained.outputs["model"], trained.outputs["Output"]
        measured = placed(
            evaluate(
                features=features,
                model=model,
                model_name=model_name,
                champion=champion.output,
                options=evaluation_options,
            ),
            "evaluate",
        )
        exported = placed(export_onnx(model=measured.outputs["evaluated"]), "export_onnx")
        built = placed(
            build_engines(model=exported.outputs["exported"], engines=engines), "build_engines"
        )
        registered = placed(
            register(
                model=built.outputs["built"],
                run_id=run_id,
                model_name=model_name,
                pipeline_run=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
            ),
            "register",
        )
        registered.set_caching_options(False)
        rolled_out = placed(
            roll_out(
                data=data,
                model_name=model_name,
                version=registered.output,
                plan=rollout_plan,
                target=target,
            ),
            "roll_out",
        )
        rolled_out.set_caching_options(False)
        reported = placed(
            make_report(
                data=data,
                validation=validated.outputs["result"],
                validation_report=validated.outputs["report"],
                features=features,
                trained=model,
                evaluated=measured.outputs["evaluated"],
                exported=exported.outputs["exported"],
                built=built.outputs["built"],
                rollout=rolled_out.outputs["result"],
                run_id=run_id,
                model_name=model_name,
                version=registered.output,
            ),
            "report",
        )
        reported.set_caching_options(False)
        return Outputs(reported.outputs["summary"], reported.outputs["report"])

    return recommender
