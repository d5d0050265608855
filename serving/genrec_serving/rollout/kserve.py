"""KServe objects that follow from the registry. Pure: no cluster is asked.

Two deployment modes split traffic in two ways.

Knative
    One predictor, of the newest version; ``canaryTrafficPercent`` is its share and Knative keeps
    the last version that had all the traffic beside it. Promotion removes the field. Roll-back
    goes to the champion's artifact at 0 %: the field must stay, or the refused revision, which is
    the latest one that is ready, would get everything until the champion's has started.
Standard
    ``spec.canary[]`` holds the challenger beside the stable predictor. Predictors are named by
    version, so that promotion renames the stable one to the canary's and nothing restarts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from genrec_model.errors import ConfigError
from genrec_serving.rollout.registry_state import DesiredState, DesiredVersion

Mode = Literal["knative", "standard"]
Manifest = dict[str, Any]

MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
MODES: dict[Mode, str] = {"knative": "Knative", "standard": "Standard"}
MODEL_FORMAT = "genrec-hstu"
RUNTIME = "genrec-hstu"
HTTP_PORT, GRPC_PORT = 8080, 9000

#: At 100 % KServe takes the canary for rolled out and forgets the version to go back to.
MAX_KNATIVE_CANARY = 99

#: What KServe's storage initializer can read.
STORAGE_SCHEMES = frozenset(
    {"gs", "s3", "https", "http", "hdfs", "webhdfs", "pvc", "oci", "hf", "abfs", "wasbs"}
)
_NAME = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")


@dataclass(frozen=True, kw_only=True)
class KServeTarget:
    """Where and how a model is deployed.

    Args:
        namespace: of all objects.
        mode: how this cluster's KServe deploys.
        image: of the server.
        name: of the InferenceService.
        service_account: that reads the artifact's storage.
        min_replicas: of the stable version.
        cpu, memory: of one server, as Kubernetes writes quantities.
        gpus: NVIDIA GPUs of one server.
        shared_memory: size of ``/dev/shm``, which vLLM's processes talk through.

    Raises:
        ConfigError: a name or a number that Kubernetes refuses.
    """

    namespace: str
    mode: Mode
    image: str
    name: str = "genrec"
    service_account: str = "genrec"
    min_replicas: int = 1
    cpu: str = "2"
    memory: str = "6Gi"
    gpus: int = 0
    shared_memory: str = "1Gi"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"deployment mode {self.mode!r}: use one of {', '.join(MODES)}")
        for field in ("name", "namespace", "service_account"):
            if not _NAME.match(getattr(self, field)) or len(getattr(self, field)) > 50:
                raise ConfigError(
                    f"{field} {getattr(self, field)!r}: use at most 50 lower-case letters, digits "
                    "and hyphens, a letter first"
                )
        if self.min_replicas < 0 or self.gpus < 0:
            raise ConfigError("min_replicas and gpus must be at least 0")


def render(state: DesiredState, target: KServeTarget) -> tuple[Manifest, Manifest]:
    """The ServingRuntime and the InferenceService that the registry wants.

    Raises:
        ConfigError: an artifact lies where KServe cannot read.
    """
    return serving_runtime(target), inference_service(state, target)


def serving_runtime(target: KServeTarget) -> Manifest:
    """How the server runs; the same for every version."""
    # Knative allows one port a pod; gRPC needs a mode without it.
    ports = [{"name": "http1", "containerPort": HTTP_PORT, "protocol": "TCP"}]
    if target.mode == "standard":
        ports = [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
        ]
    resources: dict[str, str] = {"cpu": target.cpu, "memory": target.memory}
    if target.gpus:
        resources["nvidia.com/gpu"] = str(target.gpus)
    container = {
        "name": "kserve-container",
        "image": target.image,
        "command": ["python", "-m", "genrec_serving.server"],
        "args": [
            "--artifact=/mnt/models",
            "--model-name={{.Name}}",
            f"--http-port={HTTP_PORT}",
            f"--grpc-port={GRPC_PORT}",
            "--host=0.0.0.0",
            "--log-format=json",
            "--drain-s=5",
        ],
        "ports": ports,
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": HTTP_PORT},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        # Warm-up compiles kernels and captures graphs: it must not be taken for a hang.
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": HTTP_PORT},
            "initialDelaySeconds": 300,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    shm = {"medium": "Memory", "sizeLimit": target.shared_memory}
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": _metadata(RUNTIME, target),
        "spec": {
            "supportedModelFormats": [{"name": MODEL_FORMAT, "version": "1", "autoSelect": False}],
            "protocolVersions": ["v1", "v2"],
            "containers": [container],
            "volumes": [{"name": "shm", "emptyDir": shm}],
        },
    }


def inference_service(state: DesiredState, target: KServeTarget) -> Manifest:
    """What is served, and to whom.

    Nothing in its metadata changes during a rollout: KServe copies labels and annotations to the
    pods, and a changed one would restart them.

    Raises:
        ConfigError: an artifact lies where KServe cannot read.
    """
    metadata = _metadata(target.name, target)
    metadata["annotations"] = {MODE_ANNOTATION: MODES[target.mode]}
    spec = _knative(state, target) if target.mode == "knative" else _standard(state, target)
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": spec,
    }


def _knative(state: DesiredState, target: KServeTarget) -> dict[str, Any]:
    served = state.challenger or state.champion
    assert served is not None
    predictor = _predictor(served, target)
    if state.challenger is not None and state.champion is not None:
        predictor["canaryTrafficPercent"] = min(state.canary_percent, MAX_KNATIVE_CANARY)
    elif state.refused:
        predictor["canaryTrafficPercent"] = 0
    return {"predictor": predictor}


def _standard(state: DesiredState, target: KServeTarget) -> dict[str, Any]:
    stable = state.champion or state.challenger
    assert stable is not None
    spec: dict[str, Any] = {"predictor": _named(stable, target)}
    if state.challenger is not None and state.champion is not None:
        canary = _named(state.challenger, target)
        # Without minReplicas KServe derives the canary's replicas from its share.
        del canary["minReplicas"]
        # The CRD of 0.20 demands this name of a canary; of the stable predictor it is refused.
        canary["model"] = {"name": "kserve-container", **canary["model"]}
        spec["canary"] = [{"trafficPercent": state.canary_percent, "predictor": canary}]
    return spec


def _named(version: DesiredVersion, target: KServeTarget) -> dict[str, Any]:
    return {"name": f"v{version.version}", **_predictor(version, target)}


def _predictor(version: DesiredVersion, target: KServeTarget) -> dict[str, Any]:
    scheme = urlsplit(version.storage_uri).scheme
    if scheme not in STORAGE_SCHEMES:
        raise ConfigError(
            f"version {version.version} lies at {version.storage_uri!r}, which KServe cannot read: "
            f"let MLflow keep artifacts under one of {', '.join(sorted(STORAGE_SCHEMES))}"
        )
    return {
        "minReplicas": target.min_replicas,
        "serviceAccountName": target.service_account,
        "model": {
            "modelFormat": {"name": MODEL_FORMAT, "version": "1"},
            "protocolVersion": "v2",
            "runtime": RUNTIME,
            "storageUri": version.storage_uri,
        },
    }


def _metadata(name: str, target: KServeTarget) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": target.namespace,
        "labels": {"app.kubernetes.io/name": "genrec", "app.kubernetes.io/part-of": "genrec"},
    }
