"""What a Kubernetes cluster gives the steps: a volume, a secret, CPU, memory and GPUs."""

from dataclasses import dataclass, field
from typing import Any

from genrec_model.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Limits of one step: CPUs, memory such as ``8G``, and NVIDIA GPUs."""

    cpu: str = "2"
    memory: str = "4G"
    gpus: int = 0


def _defaults() -> dict[str, Resources]:
    return {
        "ingest": Resources(memory="8G"),
        "validate": Resources(memory="8G"),
        "features": Resources(memory="8G"),
        "train": Resources(cpu="8", memory="32G", gpus=1),
        "evaluate": Resources(cpu="8", memory="32G"),
        "build_engines": Resources(cpu="4", memory="16G", gpus=1),
    }


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the steps run.

    Args:
        volume_claim: persistent volume claim for checkpoints and pulled models, mounted at `home`.
        home: the settings' ``home`` in the containers.
        mlflow_secret: secret with the key ``MLFLOW_TRACKING_URI``; empty where the Kubeflow
            server injects it.
        resources: by step; a step that is not named gets the defaults of `Resources`.
        accelerator: resource name of GPUs.
    """

    volume_claim: str = "genrec-home"
    home: str = "/mnt/genrec"
    mlflow_secret: str = "genrec-mlflow"
    resources: dict[str, Resources] = field(default_factory=_defaults)
    accelerator: str = "nvidia.com/gpu"

    def __post_init__(self) -> None:
        if not self.volume_claim or not self.home.startswith("/"):
            raise ConfigError("cluster: name a volume_claim, and an absolute path for home")

    def place(self, task: Any, name: str) -> Any:
        """Give a task its limits, volume and secret; returns the task."""
        from kfp import kubernetes

        limits = self.resources.get(name, Resources())
        task.set_cpu_limit(limits.cpu).set_memory_limit(limits.memory)
        if limits.gpus:
            task.set_accelerator_type(self.accelerator).set_accelerator_limit(limits.gpus)
        task.set_env_variable("GENREC_HOME", self.home)
        kubernetes.mount_pvc(task, pvc_name=self.volume_claim, mount_path=self.home)
        if self.mlflow_secret:
            kubernetes.use_secret_as_env(
                task,
                secret_name=self.mlflow_secret,
                secret_key_to_env={"MLFLOW_TRACKING_URI": "MLFLOW_TRACKING_URI"},
            )
        return task
