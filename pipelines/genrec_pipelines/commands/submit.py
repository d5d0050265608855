"""`genrec submit`: a run on a Kubeflow cluster."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from genrec_model.errors import ConfigError
from genrec_pipelines.cluster import Cluster
from genrec_pipelines.commands.compile import write_pipeline
from genrec_pipelines.commands.options import (
    ColumnOption,
    ConfigOption,
    DatasetOption,
    LoadOption,
    ModelNameOption,
    PathOption,
    RecipeOption,
    SetOption,
    chosen_recipe,
)


def submit(
    host: Annotated[str, typer.Option("--host", help="Kubeflow Pipelines API, http(s)://...")],
    recipe: RecipeOption = None,
    config: ConfigOption = None,
    dataset: DatasetOption = None,
    path: PathOption = None,
    column: ColumnOption = None,
    changes: SetOption = None,
    model_name: ModelNameOption = None,
    load: LoadOption = None,
    experiment: Annotated[str, typer.Option(help="Kubeflow experiment.")] = "genrec",
    namespace: Annotated[str | None, typer.Option(help="Kubeflow namespace.")] = None,
    volume_claim: Annotated[str, typer.Option(help="Volume claim of the steps.")] = "genrec-home",
) -> None:
    """Compile the pipeline, submit it with a recipe's arguments, and print the run's address."""
    chosen = chosen_recipe(
        name=recipe,
        config=config,
        dataset=dataset,
        path=path,
        column=column,
        changes=changes,
        model_name=model_name,
        load=load,
        target="kserve",
    )
    from kfp.client import Client
    from kfp_server_api.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        write_pipeline(package, Cluster(volume_claim=volume_claim))
        try:
            run = Client(
                host=host, namespace=namespace or "kubeflow"
            ).create_run_from_pipeline_package(
                str(package),
                arguments=chosen.arguments(),
                experiment_name=experiment,
                namespace=namespace,
            )
        except (ApiException, HTTPError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"--host {host}: Kubeflow Pipelines did not take the run: {reason}"
            ) from error
    typer.echo(f"{host.rstrip('/')}/#/runs/details/{run.run_id}")
