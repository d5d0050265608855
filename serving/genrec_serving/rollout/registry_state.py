"""The registry as a rollout sees it: two aliases and the tags of versions.

Promotion and roll-back are sequences of single writes. Their order is such that a process killed
between two of them leaves a state from which the next run goes on: never two stable versions,
never a challenger that was judged bad.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

from genrec_model.errors import RegistryError
from genrec_serving.rollout.machine import PERCENT_TAG, RolloutState

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"

#: On a version that was promoted: who was champion before.
PREVIOUS_TAG = "previous_champion"
#: On the champion: the challenger that was rolled back last. Empty means none.
REFUSED_TAG = "refused_challenger"


@dataclass(frozen=True, kw_only=True)
class DesiredVersion:
    """A version that is to be served.

    Args:
        version: as the registry names it.
        storage_uri: where its artifact lies.
    """

    version: str
    storage_uri: str


@dataclass(frozen=True, kw_only=True)
class DesiredState:
    """What the registry wants to be served.

    Args:
        model: its name in the registry.
        champion, challenger: at least one of them.
        canary_percent: share of the users at the challenger, 0 to 100.
        refused: the champion's last challenger was rolled back.
    """

    model: str
    champion: DesiredVersion | None
    challenger: DesiredVersion | None
    canary_percent: int = 0
    refused: bool = False


class RolloutRegistry(ABC):
    """Aliases and tags of one registered model.

    Subclasses store; what a rollout means is written here once.

    Args:
        model: name in the registry.
    """

    def __init__(self, model: str) -> None:
        self.model = model

    @abstractmethod
    def alias(self, name: str) -> str | None:
        """Version that an alias names, or None."""

    @abstractmethod
    def set_alias(self, name: str, version: str) -> None:
        """Let an alias name a version.

        Raises:
            RegistryError: there is no such version.
        """

    @abstractmethod
    def delete_alias(self, name: str) -> None:
        """Remove an alias; nothing happens where there is none."""

    @abstractmethod
    def tags(self, version: str) -> dict[str, str]:
        """Tags of a version.

        Raises:
            RegistryError: there is no such version.
        """

    @abstractmethod
    def write(self, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version, one after the other."""

    @abstractmethod
    def storage_uri(self, version: str) -> str:
        """Where the artifact of a version lies."""

    def champion(self) -> str | None:
        """The stable version, or None."""
        return self.alias(CHAMPION)

    def challenger(self) -> str | None:
        """The canary, or None."""
        return self.alias(CHALLENGER)

    def state(self, version: str) -> RolloutState:
        """Where the rollout of a version is."""
        return RolloutState.from_tags(self.tags(version))

    def save(self, version: str, state: RolloutState) -> None:
        """Keep a rollout's state; when it has ended, move the aliases too."""
        if state.phase == "promoted":
            self.promote(version)
        elif state.phase == "rolled_back":
            self.roll_back(version)
        self.write(version, state.to_tags())

    def promote(self, version: str) -> None:
        """Make a version the champion and nobody the challenger. Repeating it changes nothing."""
        champion = self.champion()
        if champion != version:
            self.write(version, {PREVIOUS_TAG: champion or "", REFUSED_TAG: ""})
            self.set_alias(CHAMPION, version)
        if self.challenger() == version:
            self.delete_alias(CHALLENGER)

    def roll_back(self, version: str) -> None:
        """Take the challenger's alias from a version. Repeating it changes nothing."""
        champion = self.champion()
        if champion is not None and champion != version:
            self.write(champion, {REFUSED_TAG: version})
        if self.challenger() == version:
            self.delete_alias(CHALLENGER)

    def finish_interrupted(self) -> str | None:
        """Complete a promotion that was killed after its first half.

        Returns:
            The version that was promoted; None where nothing was left undone.
        """
        version = self.challenger()
        if version is None or version != self.champion():
            return None
        logger.info("version %s is champion already; its promotion is completed", version)
        reason = "all steps were passed; the promotion was interrupted and then completed"
        state = replace(self.state(version), phase="promoted", percent=100, reason=reason)
        self.save(version, state)
        return version

    def rollback_champion(self, reason: str) -> str:
        """Put the previous champion back.

        A rollout that is under way goes on, against the champion that is back.

        Returns:
            The version that is champion now.

        Raises:
            RegistryError: there is no champion, or none before it.
        """
        champion = self.champion()
        if champion is None:
            raise RegistryError(f"model {self.model!r} has no champion to roll back")
        previous = self.tags(champion).get(PREVIOUS_TAG)
        if not previous:
            raise RegistryError(
                f"version {champion} of model {self.model!r} is the first champion: there is no "
                "previous one to go back to"
            )
        self.write(previous, {REFUSED_TAG: ""})
        self.set_alias(CHAMPION, previous)
        state = replace(self.state(champion), phase="rolled_back", percent=0, reason=reason[:400])
        self.write(champion, state.to_tags())
        return previous

    def desired(self) -> DesiredState:
        """What is to be served now.

        Raises:
            RegistryError: there is neither a champion nor a challenger.
        """
        champion, challenger = self.champion(), self.challenger()
        if champion == challenger:
            challenger = None
        if champion is None and challenger is None:
            raise RegistryError(
                f"model {self.model!r} has neither a champion nor a challenger to serve"
            )
        percent = 0
        if challenger is not None:
            text = self.tags(challenger).get(PERCENT_TAG, "0")
            if not text.isdecimal() or int(text) > 100:
                raise RegistryError(
                    f"version {challenger} of model {self.model!r}: tag {PERCENT_TAG} is "
                    f"{text!r}, not 0 to 100"
                )
            percent = int(text) if self.state(challenger).phase == "canary" else 0
        refused = champion is not None and bool(self.tags(champion).get(REFUSED_TAG))
        return DesiredState(
            model=self.model,
            champion=self._desired(champion),
            challenger=self._desired(challenger),
            canary_percent=percent,
            refused=refused,
        )

    def _desired(self, version: str | None) -> DesiredVersion | None:
        if version is None:
            return None
        return DesiredVersion(version=version, storage_uri=self.storage_uri(version))


class MlflowRegistry(RolloutRegistry):
    """A registered model in MLflow."""

    def alias(self, name: str) -> str | None:
        """Version that an alias names, or None."""
        from genrec_model.registry import models

        return models.version_of(self.model, name)

    def set_alias(self, name: str, version: str) -> None:
        """Let an alias name a version."""
        from genrec_model.registry import models

        models.set_alias(self.model, name, version)

    def delete_alias(self, name: str) -> None:
        """Remove an alias."""
        from genrec_model.registry import models

        models.delete_alias(self.model, name)

    def tags(self, version: str) -> dict[str, str]:
        """Tags of a version."""
        from genrec_model.registry import models

        return models.version_tags(self.model, version)

    def write(self, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        from genrec_model.registry import models

        models.tag_version(self.model, version, tags)

    def storage_uri(self, version: str) -> str:
        """Where the artifact of a version lies."""
        from genrec_model.registry import models

        return models.storage_uri(self.model, version)


class MemoryRegistry(RolloutRegistry):
    """A registry in memory, for tests and dry runs.

    Args:
        versions: version to the URI of its artifact.
        aliases: alias to version.
    """

    def __init__(
        self, model: str, *, versions: Mapping[str, str], aliases: Mapping[str, str]
    ) -> None:
        super().__init__(model)
        self._uris = dict(versions)
        self._tags: dict[str, dict[str, str]] = {version: {} for version in versions}
        self._aliases: dict[str, str] = {}
        for name, version in aliases.items():
            self.set_alias(name, version)

    def _known(self, version: str) -> str:
        if version not in self._uris:
            raise RegistryError(f"no version {version} of model {self.model!r}")
        return version

    def alias(self, name: str) -> str | None:
        """Version that an alias names, or None."""
        return self._aliases.get(name)

    def set_alias(self, name: str, version: str) -> None:
        """Let an alias name a version."""
        self._aliases[name] = self._known(version)

    def delete_alias(self, name: str) -> None:
        """Remove an alias."""
        self._aliases.pop(name, None)

    def tags(self, version: str) -> dict[str, str]:
        """Tags of a version."""
        return dict(self._tags[self._known(version)])

    def write(self, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        self._tags[self._known(version)].update(tags)

    def storage_uri(self, version: str) -> str:
        """Where the artifact of a version lies."""
        return self._uris[self._known(version)]
