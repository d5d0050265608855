from __future__ import annotations

from pathlib import Path

import pytest

from genrec_model.errors import RegistryError
from genrec_model.settings import settings
from genrec_serving.rollout.machine import RolloutState
from genrec_serving.rollout.registry_state import MemoryRegistry, MlflowRegistry, RolloutRegistry


def test_rollback_of_the_champion(registry: MemoryRegistry) -> None:
    registry.save("8", RolloutState(phase="promoted", percent=100))
    assert (registry.champion(), registry.challenger()) == ("8", None)
    assert registry.rollback_champion("it recommends socks to everybody") == "7"
    assert registry.champion() == "7"
    assert registry.tags("8")["rollout_state"] == "rolled_back"
    assert "socks" in registry.tags("8")["rollout_reason"]
    assert not registry.desired().refused
    with pytest.raises(RegistryError, match="first champion"):
        registry.rollback_champion("again")


def test_a_champion_that_is_back_forgets_whom_it_refused(registry: MemoryRegistry) -> None:
    registry.save("8", RolloutState(phase="rolled_back", reason="slow"))
    assert registry.desired().refused
    registry.set_alias("challenger", "9")
    registry.save("9", RolloutState(phase="promoted", percent=100))
    assert registry.rollback_champion("worse than it looked") == "7"
    assert not registry.desired().refused


def test_rollback_without_a_champion() -> None:
    empty = MemoryRegistry("genrec", versions={}, aliases={})
    with pytest.raises(RegistryError, match="no champion"):
        empty.rollback_champion("why not")
    with pytest.raises(RegistryError, match="neither"):
        empty.desired()


def test_desired_state(registry: MemoryRegistry) -> None:
    state = registry.desired()
    assert (state.canary_percent, state.refused) == (0, False)
    registry.save("8", RolloutState(phase="canary", percent=25, step=1))
    state = registry.desired()
    assert state.challenger is not None
    assert (state.challenger.storage_uri, state.canary_percent) == ("s3://models/8", 25)
    registry.save("8", RolloutState(phase="rolled_back", reason="slow"))
    state = registry.desired()
    assert (state.challenger, state.canary_percent, state.refused) == (None, 0, True)
    registry.set_alias("challenger", "9")
    registry.save("9", RolloutState(phase="promoted", percent=100))
    state = registry.desired()
    assert state.champion is not None
    assert (state.champion.version, state.refused) == ("9", False)


def test_a_strange_percentage(registry: MemoryRegistry) -> None:
    registry.write("8", {"canary_percent": "many"})
    with pytest.raises(RegistryError, match="'many'"):
        registry.desired()


@pytest.fixture
def mlflow_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RolloutRegistry:
    monkeypatch.setenv("GENREC_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    settings.cache_clear()
    from genrec_model.registry import tracking

    client = tracking.client()
    client.create_registered_model("genrec")
    for _ in range(2):
        client.create_model_version("genrec", source=f"file://{tmp_path}")
    registry = MlflowRegistry("genrec")
    registry.set_alias("champion", "1")
    registry.set_alias("challenger", "2")
    return registry


def test_mlflow(mlflow_registry: RolloutRegistry) -> None:
    registry = mlflow_registry
    try:
        state = RolloutState(phase="canary", step=1, percent=25)
        registry.save("2", state)
        assert registry.state("2") == state
        assert registry.desired().canary_percent == 25
        registry.save("2", RolloutState(phase="rolled_back", reason="slow"))
        assert (registry.champion(), registry.challenger()) == ("1", None)
        assert registry.desired().refused
        registry.set_alias("challenger", "2")
        registry.save("2", RolloutState(phase="promoted", percent=100))
        assert (registry.champion(), registry.challenger()) == ("2", None)
        assert registry.rollback_champion("no") == "1"
        with pytest.raises(RegistryError):
            registry.tags("99")
        with pytest.raises(RegistryError):
            registry.set_alias("champion", "99")
        registry.delete_alias("nobody")
    finally:
        settings.cache_clear()
