"""What an engine builder is, and the record that every engine leaves."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from genrec_model.errors import ConfigError
from genrec_model.files import read_json, write_json

Precision = Literal["fp32", "fp16", "int8", "fp8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one call: users, history rows of the longest, candidates of each."""

    batch: int
    history: int
    candidates: int


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Sizes that an engine takes, and those that it is tuned for."""

    smallest: Shape
    typical: Shape
    largest: Shape

    @classmethod
    def for_rows(cls, max_rows: int) -> Profile:
        """The default profile of a model whose histories have at most `max_rows` rows."""
        return cls(
            smallest=Shape(batch=1, history=2, candidates=1),
            typical=Shape(batch=8, history=max_rows, candidates=100),
            largest=Shape(batch=32, history=max_rows, candidates=1000),
        )


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """What ``engine.json`` says about an engine.

    Args:
        backend: name of the builder, for example ``onnxruntime`` or ``tensorrt-rtx``.
        version: version of the builder.
        precision: arithmetic of the engine.
        file: the engine, relative to its folder.
        bytes: its size.
        profile: sizes that it takes, or None where any will do.
        onnx_sha256: of the graph that it was built from.
        executed: whether this very engine was run on the machine that built it.
        max_abs_error: its largest difference from plain PyTorch; None where it was not run.
        graph_max_abs_error: the same for its graph in its precision, run by ONNX Runtime on the
            CPU. It tells what the precision costs, not that the engine works.
        build_seconds: time that the builder took.
        note: what a reader must know, for example why it was not run.
    """

    backend: str
    version: str
    precision: Precision
    file: str
    bytes: int
    profile: Profile | None
    onnx_sha256: str
    executed: bool
    max_abs_error: float | None
    graph_max_abs_error: float
    build_seconds: float
    note: str

    def __post_init__(self) -> None:
        if self.executed != (self.max_abs_error is not None):
            raise ValueError("an engine has an error of its own exactly if it was executed")

    def save(self, folder: Path) -> None:
        """Write ``engine.json``."""
        write_json(folder / "engine.json", asdict(self))

    @classmethod
    def load(cls, folder: Path) -> EngineRecord:
        """Read ``engine.json``."""
        values: dict[str, Any] = read_json(folder / "engine.json")
        profile = values["profile"]
        if profile is not None:
            profile = Profile(**{name: Shape(**shape) for name, shape in profile.items()})
        return cls(**{**values, "profile": profile})


class EngineBuilder(ABC):
    """Builds engines of one backend."""

    #: Name of the backend in `engine.json` and on the command line.
    name: str
    #: Precisions that it can build.
    precisions: tuple[Precision, ...]

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the backend."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why it cannot build on this machine, or None if it can."""

    @abstractmethod
    def build(self, onnx: Path, engine: Path, profile: Profile) -> None:
        """Build an engine file from a graph that already has its precision.

        Raises:
            EngineError: the backend refuses the graph; with its own words.
        """


def engine_name(backend: str, precision: Precision) -> str:
    """Folder of an engine in the artifact."""
    return f"{backend}-{precision}"


def parse_engine_name(name: str) -> tuple[str, Precision]:
    """Backend and precision of, say, ``tensorrt-rtx-fp16``.

    Raises:
        ConfigError: the precision is none that this project builds.
    """
    backend, _, precision = name.rpartition("-")
    for known in PRECISIONS:
        if precision == known and backend:
            return backend, known
    raise ConfigError(
        f"engine {name!r}: write BACKEND-PRECISION, with one of {', '.join(PRECISIONS)}"
    )


def sha256(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
