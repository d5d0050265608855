"""The real Kubernetes client against kmock's API server: plain merges, no controller."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kmock
import pytest
from kubernetes import client

from genrec_model.errors import ConfigError, RegistryError
from genrec_serving.rollout.kserve import KServeTarget, Mode
from genrec_serving.rollout.machine import RolloutState
from genrec_serving.rollout.merge import LAST_APPLIED
from genrec_serving.rollout.reconciler import Reconciler
from genrec_serving.rollout.registry_state import MemoryRegistry

SERVICES = "serving.kserve.io/v1beta1/inferenceservices"
RUNTIMES = "serving.kserve.io/v1alpha1/servingruntimes"


class Cluster:
    """A KubernetesEmulator in a thread of its own."""

    def __init__(self) -> None:
        self.emulator: Any = None
        self.url = ""
        self._up, self._down = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    async def _main(self) -> None:
        async with kmock.KubernetesEmulator() as emulator, kmock.Server(emulator) as server:
            verbs = ["get", "list", "create", "patch"]
            for resource, kind in (
                (SERVICES, "InferenceService"),
                (RUNTIMES, "ServingRuntime"),
            ):
                emulator.resources[resource] = {"kind": kind, "namespaced": True, "verbs": verbs}
            self.emulator, self.url = emulator, str(server.url)
            self._up.set()
            await asyncio.to_thread(self._down.wait)

    def __enter__(self) -> Cluster:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._down.set()
        self._thread.join(10)

    def api(self) -> client.ApiClient:
        configuration = client.Configuration(host=self.url.rstrip("/"))
        configuration.retries = 0
        return client.ApiClient(configuration)

    def spec(self) -> dict[str, Any]:
        found = client.CustomObjectsApi(self.api()).get_namespaced_custom_object(
            "serving.kserve.io", "v1beta1", "recsys", "inferenceservices", "genrec"
        )
        spec: dict[str, Any] = found["spec"]
        return spec

    def patch(self, body: dict[str, Any]) -> None:
        client.CustomObjectsApi(self.api()).patch_namespaced_custom_object(
            "serving.kserve.io", "v1beta1", "recsys", "inferenceservices", "genrec", body
        )


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


def reconciler(registry: MemoryRegistry, cluster: Cluster, mode: Mode) -> Reconciler:
    target = KServeTarget(namespace="recsys", mode=mode, image="genrec:1")
    return Reconciler(registry, target, api_client=cluster.api())


def actions(changes: Any) -> list[str]:
    return [change.action for change in changes]


def test_knative_rollout(cluster: Cluster, registry: MemoryRegistry) -> None:
    registry.delete_alias("challenger")
    loop = reconciler(registry, cluster, "knative")
    assert actions(loop.reconcile(dry_run=True)) == ["created", "created"]
    assert actions(loop.reconcile()) == ["created", "created"]
    assert actions(loop.reconcile()) == ["unchanged", "unchanged"]
    registry.set_alias("challenger", "8")
    registry.save("8", RolloutState(phase="canary", percent=25))
    planned = loop.reconcile(dry_run=True)
    assert planned[1].diff == (
        '~ spec.predictor.model.storageUri: "s3://models/7" -> "s3://models/8"',
        "+ spec.predictor.canaryTrafficPercent: 25",
    )
    assert cluster.spec()["predictor"]["model"]["storageUri"] == "s3://models/7"
    assert loop.reconcile() == planned
    assert actions(loop.reconcile()) == ["unchanged", "unchanged"]
    registry.save("8", RolloutState(phase="rolled_back", reason="slow"))
    loop.reconcile()
    predictor = cluster.spec()["predictor"]
    assert predictor["model"]["storageUri"] == "s3://models/7"
    assert predictor["canaryTrafficPercent"] == 0
    registry.set_alias("challenger", "9")
    registry.save("9", RolloutState(phase="promoted", percent=100))
    assert "- spec.predictor.canaryTrafficPercent: 0" in loop.reconcile()[1].diff
    assert "canaryTrafficPercent" not in cluster.spec()["predictor"]
    assert actions(loop.reconcile()) == ["unchanged", "unchanged"]


def test_standard_rollout(cluster: Cluster, registry: MemoryRegistry) -> None:
    loop = reconciler(registry, cluster, "standard")
    registry.save("8", RolloutState(phase="canary", percent=5))
    loop.reconcile()
    assert cluster.spec()["canary"][0]["trafficPercent"] == 5
    registry.save("8", RolloutState(phase="canary", percent=50))
    assert actions(loop.reconcile()) == ["unchanged", "patched"]
    assert cluster.spec()["canary"][0]["trafficPercent"] == 50
    registry.save("8", RolloutState(phase="promoted", percent=100))
    loop.reconcile()
    spec = cluster.spec()
    assert (spec["predictor"]["name"], "canary" in spec) == ("v8", False)
    assert actions(loop.reconcile()) == ["unchanged", "unchanged"]
    assert registry.rollback_champion("no") == "7"
    loop.reconcile()
    assert cluster.spec()["predictor"]["name"] == "v7"


def test_what_others_own_is_left_alone_and_drift_is_mended(
    cluster: Cluster, registry: MemoryRegistry
) -> None:
    registry.delete_alias("challenger")
    loop = reconciler(registry, cluster, "knative")
    loop.reconcile()
    cluster.patch({"spec": {"predictor": {"timeout": 30}}})
    assert actions(loop.reconcile()) == ["unchanged", "unchanged"]
    # As if somebody had begun a canary by hand.
    cluster.patch({"spec": {"predictor": {"canaryTrafficPercent": 70, "minReplicas": 9}}})
    assert set(loop.reconcile()[1].diff) == {
        "~ spec.predictor.minReplicas: 9 -> 1",
        "- spec.predictor.canaryTrafficPercent: 70",
    }
    assert cluster.spec()["predictor"]["timeout"] == 30


def test_what_was_applied_once_and_is_wanted_no_longer_goes(
    cluster: Cluster, registry: MemoryRegistry
) -> None:
    loop = reconciler(registry, cluster, "knative")
    loop.reconcile()
    older = json.dumps({"spec": {"predictor": {"timeout": 30}}})
    cluster.patch(
        {
            "metadata": {"annotations": {LAST_APPLIED: older}},
            "spec": {"predictor": {"timeout": 30}},
        }
    )
    assert loop.reconcile()[1].diff == ("- spec.predictor.timeout: 30",)
    assert "timeout" not in cluster.spec()["predictor"]


def test_an_object_applied_by_hand_keeps_its_predictors_name(
    cluster: Cluster, registry: MemoryRegistry
) -> None:
    registry.delete_alias("challenger")
    loop = reconciler(registry, cluster, "standard")
    loop.reconcile()
    cluster.patch({"spec": {"predictor": {"name": "first"}}})
    loop.reconcile()
    assert cluster.spec()["predictor"]["name"] == "first"
    registry.set_alias("challenger", "8")
    registry.save("8", RolloutState(phase="promoted", percent=100))
    loop.reconcile()
    assert cluster.spec()["predictor"]["name"] == "v8"


def test_the_webhooks_rules_are_checked_first(cluster: Cluster, registry: MemoryRegistry) -> None:
    loop = reconciler(registry, cluster, "standard")
    loop.reconcile()
    cluster.patch({"status": {"deploymentMode": "Knative"}})
    registry.save("8", RolloutState(phase="canary", percent=5))
    with pytest.raises(ConfigError, match="Knative cannot become Standard"):
        loop.reconcile()


def test_a_cluster_that_does_not_answer(registry: MemoryRegistry) -> None:
    configuration = client.Configuration(host="http://127.0.0.1:9")
    configuration.retries = 0
    target = KServeTarget(namespace="recsys", mode="knative", image="genrec:1")
    loop = Reconciler(registry, target, api_client=client.ApiClient(configuration))
    with pytest.raises(ConfigError, match=r"http://127.0.0.1:9 does not answer"):
        loop.reconcile()


def test_a_cluster_that_says_no(cluster: Cluster, registry: MemoryRegistry) -> None:
    cluster.emulator["post"] << 403 << {"message": "servingruntimes is forbidden"}
    with pytest.raises(ConfigError, match=r"HTTP 403.*forbidden"):
        reconciler(registry, cluster, "knative").reconcile()


def test_no_kubeconfig(registry: MemoryRegistry, tmp_path: Path) -> None:
    target = KServeTarget(namespace="recsys", mode="knative", image="genrec:1")
    with pytest.raises(ConfigError, match="no cluster is configured"):
        Reconciler(registry, target, kubeconfig=tmp_path / "missing").reconcile()
    empty = MemoryRegistry("genrec", versions={}, aliases={})
    with pytest.raises(RegistryError, match="neither"):
        Reconciler(empty, target).reconcile()
