"""Manifests, and what the reconciler renders, against the schemas of KServe's own CRDs."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from genrec_model.settings import Settings
from genrec_serving.rollout.kserve import KServeTarget, Mode, inference_service, serving_runtime
from genrec_serving.rollout.kserve_rules import violations
from genrec_serving.rollout.registry_state import DesiredState, DesiredVersion

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
CRDS = ROOT.parent / "shared" / "crds"
DOCUMENTS = sorted(MANIFESTS.rglob("*.yaml"))

needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason=f"no KServe CRDs in {CRDS}")

_COMMENTS = ("description", "format", "default", "nullable")


def strict(schema: Any) -> Any:
    """A structural schema of Kubernetes as JSON schema that refuses fields it does not know."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    result = {}
    for key, value in schema.items():
        if key == "properties":
            result[key] = {name: strict(inner) for name, inner in value.items()}
        elif key not in _COMMENTS and not key.startswith("x-"):
            result[key] = strict(value)
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("anyOf", None)
        result["type"] = ["integer", "string"]
    closed = "properties" in schema and "additionalProperties" not in schema
    if closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = False
    return result


@functools.cache
def validator(kind: str) -> Draft7Validator:
    plural = f"{kind.lower()}s"
    text = (CRDS / f"serving.kserve.io_{plural}.yaml").read_text()
    crd = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    schema = strict(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return Draft7Validator(schema)


def complaints(document: dict[str, Any]) -> list[str]:
    return [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in validator(document["kind"]).iter_errors(document)
    ]


def target(mode: Mode) -> KServeTarget:
    image = Settings.model_fields["image"].default
    return KServeTarget(
        namespace="recsys", mode=mode, image=image, gpus=1 if mode == "standard" else 0
    )


def without_namespace(document: dict[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in document["metadata"].items() if key != "namespace"}
    return {**document, "metadata": metadata}


def build(overlay: str) -> dict[str, dict[str, Any]]:
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            text = subprocess.run(
                [*command, str(MANIFESTS / "overlays" / overlay)],
                check=True,
                capture_output=True,
                text=True,
                timeout=60,
            ).stdout
            return {document["kind"]: document for document in yaml.safe_load_all(text)}
    pytest.skip("neither kubectl nor kustomize is here to build the overlays")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_every_document_parses(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        if isinstance(document, list):  # a JSON patch
            assert all({"op", "path", "value"} == set(operation) for operation in document)
            continue
        assert document["apiVersion"]
        for entry in (*document.get("resources", []), *document.get("patches", [])):
            name = entry if isinstance(entry, str) else entry["path"]
            assert (path.parent / name).exists(), name
        assert "namespace" not in document.get("metadata", {})


@needs_crds
@pytest.mark.parametrize("name", ["serving-runtime", "inference-service"])
def test_base_fits_the_schemas(name: str) -> None:
    document = yaml.safe_load((MANIFESTS / "base" / f"{name}.yaml").read_text())
    assert complaints(document) == []


def test_base_is_what_the_reconciler_renders() -> None:
    found = yaml.safe_load((MANIFESTS / "base" / "serving-runtime.yaml").read_text())
    assert found == without_namespace(serving_runtime(target("knative")))


@pytest.mark.parametrize("mode", ["knative", "standard"])
def test_overlays_are_what_the_reconciler_renders(mode: Mode) -> None:
    built = build(mode)
    assert built["ServingRuntime"] == without_namespace(serving_runtime(target(mode)))
    service = built["InferenceService"]
    assert violations(service) == ()
    first = DesiredVersion(
        version="1", storage_uri=service["spec"]["predictor"]["model"]["storageUri"]
    )
    state = DesiredState(model="genrec", champion=first, challenger=None)
    rendered = without_namespace(inference_service(state, target(mode)))
    rendered["spec"]["predictor"].pop("name", None)
    assert service == rendered
    if CRDS.is_dir():
        assert complaints(service) == complaints(built["ServingRuntime"]) == []


V7 = DesiredVersion(version="7", storage_uri="s3://models/7")
V8 = DesiredVersion(version="8", storage_uri="gs://models/8")


@needs_crds
@pytest.mark.parametrize("mode", ["knative", "standard"])
@pytest.mark.parametrize(
    ("champion", "challenger", "percent", "refused"),
    [
        (None, V7, 0, False),
        (V7, None, 0, False),
        (V7, V8, 0, False),
        (V7, V8, 25, False),
        (V7, V8, 100, False),
        (V7, None, 0, True),
        (V8, None, 0, False),
    ],
)
def test_rendered_objects_fit_the_schemas(
    mode: Mode,
    champion: DesiredVersion | None,
    challenger: DesiredVersion | None,
    percent: int,
    refused: bool,
) -> None:
    state = DesiredState(
        model="genrec",
        champion=champion,
        challenger=challenger,
        canary_percent=percent,
        refused=refused,
    )
    assert complaints(inference_service(state, target(mode))) == []
    assert complaints(serving_runtime(target(mode))) == []


@needs_crds
def test_the_schemas_refuse_what_they_do_not_know() -> None:
    state = DesiredState(model="genrec", champion=V7, challenger=None)
    service = inference_service(state, target("standard"))
    service["spec"]["predictor"]["modle"] = {}
    assert complaints(service)
