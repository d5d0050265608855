"""Bringing a cluster to what the registry wants. Run it as often as you like."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genrec_model.errors import ConfigError
from genrec_serving.rollout.kserve import KServeTarget, Manifest, render
from genrec_serving.rollout.kserve_rules import violations
from genrec_serving.rollout.merge import annotated, describe, last_applied, merge_patch
from genrec_serving.rollout.registry_state import RolloutRegistry

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

logger = logging.getLogger(__name__)

_PLURALS = {"InferenceService": "inferenceservices", "ServingRuntime": "servingruntimes"}
#: Fields of ours that are removed even from an object that nobody's `apply` has written.
_ALWAYS_OURS: Manifest = {"spec": {"canary": None, "predictor": {"canaryTrafficPercent": None}}}


@dataclass(frozen=True, kw_only=True)
class Change:
    """What happened, or would happen, to one object.

    Args:
        kind, name: of the object.
        action: created, patched or unchanged.
        diff: one line a field.
    """

    kind: str
    name: str
    action: Literal["created", "patched", "unchanged"]
    diff: tuple[str, ...] = ()


class Reconciler:
    """Applies the objects of one model to one cluster.

    Args:
        registry: what is wanted.
        target: where.
        api_client: of the cluster; None reads the kubeconfig, or the pod's service account.
        kubeconfig: another one than the default.
        timeout_s: for one call to the cluster.
    """

    def __init__(
        self,
        registry: RolloutRegistry,
        target: KServeTarget,
        *,
        api_client: ApiClient | None = None,
        kubeconfig: Path | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self._registry = registry
        self._target = target
        self._client = api_client
        self._kubeconfig = kubeconfig
        self._timeout_s = timeout_s

    def reconcile(self, *, dry_run: bool = False) -> tuple[Change, ...]:
        """Make the cluster what the registry wants; touch nothing that is right already.

        Args:
            dry_run: only say what would change.

        Raises:
            RegistryError: there is nothing to serve.
            ConfigError: KServe cannot read the artifact, KServe's webhook would refuse the
                object, or the cluster does not answer, does not know KServe or says no.
        """
        manifests = render(self._registry.desired(), self._target)
        if self._client is None:
            self._client = _connect(self._kubeconfig)
        return tuple(self._apply(manifest, dry_run=dry_run) for manifest in manifests)

    def _apply(self, desired: Manifest, *, dry_run: bool) -> Change:
        from kubernetes.client import CustomObjectsApi

        api = CustomObjectsApi(self._client)
        kind, name = desired["kind"], desired["metadata"]["name"]
        group, version = desired["apiVersion"].split("/")
        place = (group, version, desired["metadata"]["namespace"], _PLURALS[kind])
        options = {"_request_timeout": self._timeout_s}
        live = self._live(api, place, name)
        if kind == "InferenceService":
            desired = _keeping_name(desired, live)
            broken = violations(desired, live)
            if broken:
                raise ConfigError(f"KServe would refuse {kind} {name}: {'; '.join(broken)}")
        if live is None:
            if not dry_run:
                with self._one_error(kind, name):
                    api.create_namespaced_custom_object(*place, annotated(desired), **options)
            logger.info("%s %s: created", kind, name)
            return Change(kind=kind, name=name, action="created")
        applied = _merged(_ALWAYS_OURS, last_applied(live))
        patch = merge_patch(desired, live, applied)
        patch.pop("apiVersion", None)
        if not patch:
            return Change(kind=kind, name=name, action="unchanged")
        diff = tuple(describe(patch, live))
        if not dry_run:
            body = merge_patch(annotated(desired), live, applied)
            body.pop("apiVersion", None)
            with self._one_error(kind, name):
                api.patch_namespaced_custom_object(*place, name, body, **options)
        logger.info("%s %s: %s", kind, name, "; ".join(diff))
        return Change(kind=kind, name=name, action="patched", diff=diff)

    def _live(
        self, api: Any, place: tuple[str, str, str, str], name: str
    ) -> Mapping[str, Any] | None:
        from kubernetes.client import ApiException

        with self._one_error(place[3], name):
            try:
                found: Mapping[str, Any] = api.get_namespaced_custom_object(
                    *place, name, _request_timeout=self._timeout_s
                )
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
        return found

    @contextmanager
    def _one_error(self, kind: str, name: str) -> Iterator[None]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        host = self._client.configuration.host if self._client is not None else "?"
        try:
            yield
        except HTTPError as error:
            raise ConfigError(
                f"the cluster at {host} does not answer ({type(error).__name__}): check the "
                "kubeconfig's context and that you can reach it"
            ) from error
        except ApiException as error:
            hint = " (is KServe installed?)" if error.status == 404 else ""
            said = str(error.body or error.reason or "").strip()[:500]
            raise ConfigError(
                f"the cluster at {host} refuses {kind} {name}: HTTP {error.status} {said}{hint}"
            ) from error


def _keeping_name(desired: Manifest, live: Mapping[str, Any] | None) -> Manifest:
    """A predictor that serves the wanted artifact already keeps its name, as KServe demands."""
    old = {} if live is None else live["spec"]["predictor"]
    new = desired["spec"]["predictor"]
    same = old.get("model", {}).get("storageUri") == new["model"]["storageUri"]
    if "name" not in new or not same or old.get("name") == new["name"]:
        return desired
    kept = {name: value for name, value in new.items() if name != "name"}
    if old.get("name"):
        kept["name"] = old["name"]
    return {**desired, "spec": {**desired["spec"], "predictor": kept}}


def _merged(ours: Manifest, applied: Mapping[str, Any]) -> Manifest:
    """`applied` with our fields in it, wherever a patch would look for them."""
    both = {**ours, **applied}
    for name in ours.keys() & applied.keys():
        if isinstance(ours[name], Mapping) and isinstance(applied[name], Mapping):
            both[name] = _merged(ours[name], applied[name])
    return both


def _connect(kubeconfig: Path | None) -> ApiClient:
    from kubernetes import client, config

    try:
        if kubeconfig is None:
            config.load_config()
        else:
            config.load_kube_config(str(kubeconfig))
    except (config.ConfigException, OSError) as error:
        raise ConfigError(
            f"no cluster is configured ({error}): write a kubeconfig, or run inside the cluster"
        ) from error
    return client.ApiClient()
