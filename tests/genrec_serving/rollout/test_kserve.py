from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_model.errors import ConfigError
from genrec_serving.rollout.kserve import KServeTarget, Mode, inference_service, serving_runtime
from genrec_serving.rollout.kserve_rules import violations
from genrec_serving.rollout.merge import annotated, describe, last_applied, merge_patch
from genrec_serving.rollout.registry_state import DesiredState, DesiredVersion

V7 = DesiredVersion(version="7", storage_uri="s3://models/7")
V8 = DesiredVersion(version="8", storage_uri="s3://models/8")


def target(mode: Mode, **options: Any) -> KServeTarget:
    return KServeTarget(namespace="recsys", mode=mode, image="genrec:1", **options)


def state(
    champion: DesiredVersion | None = V7,
    challenger: DesiredVersion | None = None,
    percent: int = 0,
    refused: bool = False,
) -> DesiredState:
    return DesiredState(
        model="genrec",
        champion=champion,
        challenger=challenger,
        canary_percent=percent,
        refused=refused,
    )


def spec(of: DesiredState, mode: Mode) -> dict[str, Any]:
    service = inference_service(of, target(mode))
    assert violations(service) == ()
    found: dict[str, Any] = service["spec"]
    return found


@pytest.mark.parametrize(
    ("of", "uri", "percent"),
    [
        (state(None, V7), "s3://models/7", None),
        (state(V7), "s3://models/7", None),
        (state(V7, V8, 0), "s3://models/8", 0),
        (state(V7, V8, 25), "s3://models/8", 25),
        (state(V7, V8, 100), "s3://models/8", 99),
        (state(V7, refused=True), "s3://models/7", 0),
        (state(V8), "s3://models/8", None),
    ],
)
def test_knative(of: DesiredState, uri: str, percent: int | None) -> None:
    predictor = spec(of, "knative")["predictor"]
    assert predictor["model"]["storageUri"] == uri
    assert predictor.get("canaryTrafficPercent") == percent
    assert "name" not in predictor


@pytest.mark.parametrize(
    ("of", "stable", "canary"),
    [
        (state(None, V7), "v7", None),
        (state(V7), "v7", None),
        (state(V7, V8, 0), "v7", ("v8", 0)),
        (state(V7, V8, 100), "v7", ("v8", 100)),
        (state(V7, refused=True), "v7", None),
        (state(V8), "v8", None),
    ],
)
def test_standard(of: DesiredState, stable: str, canary: tuple[str, int] | None) -> None:
    found = spec(of, "standard")
    assert found["predictor"]["name"] == stable
    entries = [(one["predictor"]["name"], one["trafficPercent"]) for one in found.get("canary", [])]
    assert entries == ([canary] if canary else [])


def test_metadata_does_not_change_during_a_rollout() -> None:
    for mode in ("knative", "standard"):
        states = [state(V7), state(V7, V8, 5), state(V7, V8, 50), state(V8)]
        metadata = [inference_service(one, target(mode))["metadata"] for one in states]
        assert all(one == metadata[0] for one in metadata)


def test_runtime() -> None:
    container = serving_runtime(target("knative"))["spec"]["containers"][0]
    assert len(container["ports"]) == 1
    container = serving_runtime(target("standard", gpus=2))["spec"]["containers"][0]
    assert [port["containerPort"] for port in container["ports"]] == [8080, 9000]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"


@pytest.mark.parametrize("uri", ["/srv/mlruns/1", "file:///srv", "models:/genrec/7", "mlflow://a"])
def test_storage_that_kserve_cannot_read(uri: str) -> None:
    with pytest.raises(ConfigError, match="KServe cannot read"):
        inference_service(state(DesiredVersion(version="7", storage_uri=uri)), target("knative"))


@pytest.mark.parametrize(
    "options", [{"name": "Genrec"}, {"name": "7up"}, {"gpus": -1}, {"service_account": ""}]
)
def test_target_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        target("knative", **options)


def broken(path: str, value: Any, mode: Mode = "standard") -> tuple[str, ...]:
    service = inference_service(state(V7, V8, 25), target(mode))
    place: Any = service
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    for part in parents:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return violations(service)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("metadata.name", "7up", "metadata.name"),
        ("spec.predictor.model.name", "x", "not allowed"),
        ("spec.predictor.canaryTrafficPercent", 5, "ignored in Standard"),
        ("spec.predictor.model", None, "requires a stable predictor with a model"),
        ("spec.canary.0.predictor.name", None, "required"),
        ("spec.canary.0.predictor.name", "v7", "stable predictor has that name"),
        ("spec.canary.0.trafficPercent", 101, "sum"),
        ("spec.canary.0.trafficPercent", -1, "0 to 100"),
        ("spec.canary.0.predictor.maxReplicas", 3, "must not set"),
        ("spec.canary.0.predictor.autoScaling", {}, "must not set"),
        ("spec.canary.0.predictor.workerSpec", {}, "must not set"),
        ("spec.canary.0.predictor.minReplicas", 2, "must not exceed"),
        ("metadata.annotations", {}, "only supported in Standard"),
    ],
)
def test_webhook_rules(path: str, value: Any, message: str) -> None:
    found = broken(path, value)
    assert any(message in one for one in found), found


def test_webhook_rules_of_several_canaries() -> None:
    service = inference_service(state(V7, V8, 60), target("standard"))
    service["spec"]["canary"] *= 2
    found = violations(service)
    assert any("duplicated" in one for one in found)
    assert any("sum" in one for one in found)


def test_webhook_rules_of_knative() -> None:
    assert broken("spec.predictor.canaryTrafficPercent", 101, "knative")
    assert any("Standard" in one for one in broken("spec.canary", [{}], "knative"))


def test_webhook_rules_of_a_change() -> None:
    old = inference_service(state(V7), target("standard"))
    new = copy.deepcopy(old)
    new["spec"]["predictor"]["name"] = "other"
    assert any("requires another model" in one for one in violations(new, old))
    assert violations(inference_service(state(V8), target("standard")), old) == ()
    live = {**old, "status": {"deploymentMode": "Knative"}}
    assert any("cannot become" in one for one in violations(old, live))


values = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=2),
    lambda inner: (
        st.dictionaries(st.sampled_from("wxyz"), inner, max_size=3) | st.lists(inner, max_size=2)
    ),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from("uvwxyz"), values, max_size=4)


def merged(live: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(live) if isinstance(live, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(objects, objects, objects)
def test_a_patch_reaches_its_goal_and_then_there_is_none(
    desired: dict[str, Any], applied: dict[str, Any], others: dict[str, Any]
) -> None:
    live = merged(applied, others)
    after = merged(live, merge_patch(desired, live, applied))
    assert merge_patch(desired, after, desired) == {}
    assert not set(applied) - set(desired) & set(after)


def test_describe() -> None:
    live = {"a": 1, "b": {"c": 2, "d": 3}, "metadata": {"annotations": {}}}
    patch = merge_patch({"a": 1, "b": {"c": 5, "e": 6}}, live, {"b": {"d": 3}})
    assert list(describe(patch, live)) == ["~ b.c: 2 -> 5", "+ b.e: 6", "- b.d: 3"]


def test_last_applied() -> None:
    desired = {"metadata": {"name": "a"}, "spec": {"b": 1}}
    assert last_applied(annotated(desired)) == desired
    assert last_applied({"metadata": {}}) == {}
    key = "kubectl.kubernetes.io/last-applied-configuration"
    assert last_applied({"metadata": {"annotations": {key: "{"}}}) == {}
