"""`genrec compile`: the pipeline as YAML for a Kubeflow cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genrec_model.files import replacing
from genrec_pipelines.cluster import Cluster


def compile_pipeline(
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path(
        "runs/genrec-pipeline.yaml"
    ),
    volume_claim: Annotated[
        str, typer.Option(help="Volume claim for checkpoints and pulled models.")
    ] = "genrec-home",
    mlflow_secret: Annotated[
        str,
        typer.Option(help="Secret with MLFLOW_TRACKING_URI; empty where Kubeflow injects it."),
    ] = "genrec-mlflow",
    manifest: Annotated[
        bool, typer.Option("--manifest", help="As Kubernetes objects (kubectl apply).")
    ] = False,
) -> None:
    """Write the pipeline as Kubeflow Pipelines v2 YAML."""
    write_pipeline(
        out, Cluster(volume_claim=volume_claim, mlflow_secret=mlflow_secret), manifest=manifest
    )
    typer.echo(f"wrote {out}")


def write_pipeline(out: Path, cluster: Cluster, *, manifest: bool = False) -> None:
    """Compile the pipeline for a cluster to a file."""
    from kfp import compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    from genrec_pipelines.recommender_pipeline import build_pipeline

    options: dict[str, Any] = {}
    if manifest:
        options["kubernetes_manifest_format"] = True
        options["kubernetes_manifest_options"] = KubernetesManifestOptions(
            include_pipeline_manifest=True
        )
    with replacing(out) as temporary:
        named = temporary.with_suffix(".yaml")  # the compiler insists on the suffix
        compiler.Compiler().compile(build_pipeline(cluster), str(named), **options)
        named.replace(temporary)
