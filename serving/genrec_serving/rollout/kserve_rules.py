"""What KServe's admission webhook demands of an InferenceService, beyond its schema.

Checked before anything is sent, so that a mistake is found without a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from genrec_serving.rollout.kserve import MODE_ANNOTATION

_NAME = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
_AUTOSCALING = ("autoScaling", "maxReplicas", "scaleMetric", "scaleMetricType", "scaleTarget")


def violations(
    service: Mapping[str, Any], live: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Rules that an InferenceService breaks, each with the path of the field.

    Args:
        service: that would be applied.
        live: what the cluster has now; None if it is new.
    """
    return tuple(_violations(service, live))


def _violations(service: Mapping[str, Any], live: Mapping[str, Any] | None) -> Iterator[str]:
    name = service["metadata"]["name"]
    if not _NAME.match(name):
        yield f"metadata.name {name!r}: lower-case letters, digits and hyphens, a letter first"
    mode = service["metadata"].get("annotations", {}).get(MODE_ANNOTATION)
    predictor = service["spec"]["predictor"]
    canaries = service["spec"].get("canary") or []
    if "name" in predictor.get("model", {}):
        yield "spec.predictor.model.name: not allowed in a standard predictor"
    if mode == "Standard":
        if "canaryTrafficPercent" in predictor:
            yield "spec.predictor.canaryTrafficPercent: ignored in Standard mode; use spec.canary"
        yield from _of_canaries(predictor, canaries)
    else:
        if canaries:
            yield "spec.canary: only supported in Standard deployment mode"
        if not 0 <= predictor.get("canaryTrafficPercent", 0) <= 100:
            yield "spec.predictor.canaryTrafficPercent: 0 to 100"
    if live is not None:
        yield from _of_change(service, live, mode)


def _of_canaries(predictor: Mapping[str, Any], canaries: list[Any]) -> Iterator[str]:
    if canaries and "model" not in predictor:
        yield "spec.predictor.model: a canary requires a stable predictor with a model"
    names = [predictor.get("name", "")]
    for index, canary in enumerate(canaries):
        at, own = f"spec.canary[{index}]", canary["predictor"]
        name = own.get("name")
        if not name:
            yield f"{at}.predictor.name: required"
        elif name == names[0]:
            yield f"{at}.predictor.name {name!r}: the stable predictor has that name"
        elif name in names:
            yield f"{at}.predictor.name {name!r}: duplicated"
        names.append(name or "")
        if not 0 <= canary["trafficPercent"] <= 100:
            yield f"{at}.trafficPercent: 0 to 100"
        for field in (*_AUTOSCALING, "workerSpec", "canaryTrafficPercent"):
            if field in own:
                yield f"{at}.predictor.{field}: a canary must not set it"
        if own.get("minReplicas", 0) > predictor.get("minReplicas", 1):
            yield f"{at}.predictor.minReplicas: must not exceed the stable predictor's"
    if sum(canary["trafficPercent"] for canary in canaries) > 100:
        yield "spec.canary: the sum of trafficPercent must be at most 100"


def _of_change(
    service: Mapping[str, Any], live: Mapping[str, Any], mode: str | None
) -> Iterator[str]:
    deployed = live.get("status", {}).get("deploymentMode")
    if deployed and mode and deployed != mode:
        yield f"metadata.annotations[{MODE_ANNOTATION}]: {deployed} cannot become {mode}"
    old, new = live["spec"]["predictor"], service["spec"]["predictor"]
    same_model = _uri(old) == _uri(new)
    if old.get("name", "") != new.get("name", "") and same_model:
        yield "spec.predictor.name: a change requires another model"


def _uri(predictor: Mapping[str, Any]) -> Any:
    return predictor.get("model", {}).get("storageUri")
