"""The model artifact: one folder that holds all that is versioned together.

::

    config.json         shape of the model (also what vLLM reads)
    model.safetensors   weights
    dataset.json        data set: actions, tasks, digest, time split
    items.parquet       vocabulary and catalogue: item_id, title, train_count
    training.json       how it was trained
    metrics.json        evaluation                          (after `evaluate`)
    golden.json         requests with their offline scores  (after `evaluate`)
    onnx/               ONNX graphs and their parity        (after `export`)
    engines/            one folder an engine                (after `engines`)
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from genrec_model.data.spec import DatasetSpec
from genrec_model.errors import ArtifactError
from genrec_model.features.split import TimeSplit
from genrec_model.features.vocabulary import Vocabulary
from genrec_model.files import read_json, replacing, write_json
from genrec_model.hstu import HSTU, HSTUConfig

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What an artifact remembers of the data that it was trained on."""

    spec: DatasetSpec
    digest: str
    split: TimeSplit
    num_events: int
    num_users: int

    def to_dict(self) -> dict[str, Any]:
        """As ``dataset.json`` holds it."""
        return {
            "format_version": FORMAT_VERSION,
            "spec": self.spec.to_dict(),
            "digest": self.digest,
            "split": {"validation": self.split.validation, "test": self.split.test},
            "num_events": self.num_events,
            "num_users": self.num_users,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DatasetInfo:
        """The reverse of `to_dict`."""
        return cls(
            spec=DatasetSpec.from_dict(values["spec"]),
            digest=values["digest"],
            split=TimeSplit(**values["split"]),
            num_events=values["num_events"],
            num_users=values["num_users"],
        )


class Artifact:
    """A model artifact on disk.

    Raises:
        ArtifactError: when something asked for is missing, broken or of another format version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not (self.path / "config.json").is_file():
            raise ArtifactError(f"{self.path}: no model artifact here (config.json is missing)")

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        model: HSTU,
        vocabulary: Vocabulary,
        dataset: DatasetInfo,
        training: Mapping[str, Any],
    ) -> Artifact:
        """Write a new artifact, whole or not at all."""
        with replacing(path) as folder:
            folder.mkdir()
            weights = {name: value.contiguous() for name, value in model.state_dict().items()}
            safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
            vocabulary.save(folder / "items.parquet")
            write_json(folder / "dataset.json", dataset.to_dict())
            write_json(folder / "training.json", dict(training))
            write_json(folder / "config.json", model.config.to_dict())
        return cls(path)

    def _json(self, name: str) -> Any:
        try:
            return read_json(self.path / name)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self.path / name}: cannot be read ({error})") from error

    @cached_property
    def config(self) -> HSTUConfig:
        """Shape of the model."""
        return HSTUConfig.from_dict(self._json("config.json"))

    @cached_property
    def dataset(self) -> DatasetInfo:
        """Where the model comes from."""
        values = self._json("dataset.json")
        if values.get("format_version") != FORMAT_VERSION:
            raise ArtifactError(
                f"{self.path}: format version {values.get('format_version')}, this program reads "
                f"{FORMAT_VERSION}; train the model again or use the program that made it"
            )
        return DatasetInfo.from_dict(values)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Items and actions that the model knows.

        Raises:
            ArtifactError: it does not fit the model's tables.
        """
        vocabulary = Vocabulary.load(self.path / "items.parquet", self.dataset.spec.actions)
        found = (vocabulary.num_items, vocabulary.num_actions)
        wanted = (self.config.num_items, self.config.num_actions)
        if found != wanted:
            raise ArtifactError(
                f"{self.path}: the vocabulary has {found} items and actions, the model's tables "
                f"have {wanted}; these files are not of one version"
            )
        return vocabulary

    def load_model(self) -> HSTU:
        """The model with its weights, in evaluation mode, on the CPU."""
        model = HSTU(self.config)
        try:
            weights = safetensors.torch.load_file(self.path / "model.safetensors")
            model.load_state_dict(weights)
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise ArtifactError(f"{self.path}/model.safetensors: {reason}") from error
        return model.eval()

    @property
    def training(self) -> dict[str, Any]:
        """How the model was trained."""
        values: dict[str, Any] = self._json("training.json")
        return values

    @property
    def metrics(self) -> dict[str, Any]:
        """Evaluation of the model."""
        values: dict[str, Any] = self._json("metrics.json")
        return values

    @property
    def golden(self) -> list[dict[str, Any]]:
        """Requests with the scores that plain PyTorch gave them."""
        values: list[dict[str, Any]] = self._json("golden.json")
        return values

    @property
    def parity(self) -> dict[str, Any]:
        """Parity of the ONNX graphs with plain PyTorch."""
        values: dict[str, Any] = self._json("onnx/parity.json")
        return values

    def write(self, name: str, value: Any) -> None:
        """Add a JSON file."""
        write_json(self.path / name, value)

    def copy_to(self, path: Path, *, leave_out: Sequence[str] = ()) -> Artifact:
        """Copy the artifact, without the entries named, to a folder for a step that adds to it.

        Files are hard links where the disk allows: they are replaced, never changed in place.
        """
        ignore = shutil.ignore_patterns(*leave_out)
        with replacing(path) as temporary:
            shutil.copytree(self.path, temporary, copy_function=_link_or_copy, ignore=ignore)
        return Artifact(path)

    def identity(self) -> str:
        """``sha256:`` of what makes the model the one it is: weights, vocabulary, data, engines.

        Measurements are not part of it: the same model, measured again beside another champion,
        is the same model.
        """
        digest = hashlib.sha256()
        for name in ("config.json", "model.safetensors", "items.parquet", "dataset.json"):
            with (self.path / name).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        for engine in sorted((self.path / "engines").glob("*/engine.json")):
            digest.update(f"{engine.parent.name};".encode())
        return f"sha256:{digest.hexdigest()}"


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
