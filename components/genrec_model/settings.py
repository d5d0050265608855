"""The only module that reads environment variables."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of a deployment, each ``GENREC_<NAME>`` in the environment.

    A Kubeflow server that knows MLflow injects ``MLFLOW_TRACKING_URI`` and
    ``MLFLOW_RUN_ID`` into every step; both are honoured under those names too.
    """

    model_config = SettingsConfigDict(env_prefix="GENREC_", extra="ignore")

    home: Path = Field(Path("runs"), description="where runs, local registries and caches live")
    data_dir: Path = Field(Path("data"), description="where downloaded data sets live")
    tracking_uri: str | None = Field(
        None,
        validation_alias=AliasChoices("GENREC_TRACKING_URI", "MLFLOW_TRACKING_URI"),
        description="MLflow server; SQLite under `home` when empty",
    )
    mlflow_run_id: str | None = Field(
        None,
        validation_alias=AliasChoices("GENREC_MLFLOW_RUN_ID", "MLFLOW_RUN_ID"),
        description="MLflow run to log to instead of a new one",
    )
    image: str = Field(
        "ghcr.io/genrec/genrec:0.1.0", description="container image of the pipeline's steps"
    )
    error_file: Path | None = Field(
        None, description="file in which a failing step leaves its message for who started it"
    )
    kserve_namespace: str = Field("default", description="namespace of the InferenceService")
    kserve_service: str = Field("genrec", description="name of the InferenceService")
    kserve_mode: Literal["knative", "standard"] = Field(
        "standard", description="how the cluster's KServe deploys, and so splits traffic"
    )
    kserve_gpus: int = Field(0, ge=0, description="NVIDIA GPUs of one model server")
    user_store: str = Field(
        "memory", description="where a server keeps users' events; a URL may hold a password"
    )
    token_file: Path | None = Field(
        None, description="tokens of which a request to a server must show one, one a line"
    )
    threads: int = Field(0, ge=0, description="CPU threads of torch; 0 leaves torch's default")


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Settings of this process, read once."""
    return Settings()
