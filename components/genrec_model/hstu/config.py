"""Shape of an HSTU model, and how it is written into an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from genrec_model.errors import ArtifactError, ConfigError

MODEL_TYPE = "genrec_hstu"
ARCHITECTURE = "GenrecHSTU"


@dataclass(frozen=True, kw_only=True)
class HSTUConfig:
    """Shape of a model; every length counts rows, which is events plus the start row.

    Args:
        num_items: rows of the item table, the reserved ones included.
        num_actions: rows of the action table, the reserved ones included.
        tasks: names of the task heads, in the order of the outputs.
        hidden_size: width of a row.
        num_layers: HSTU layers.
        num_heads: attention heads.
        head_dim: width of a head's query, key and value.
        max_history: most events of a history that the model sees.
        chunk_size: a longer history loses its oldest events in chunks of this many, so that its
            prefix stays the same from one request to the next; a multiple of the KV page.
        norm_length: N of the attention, a constant.
        num_time_buckets: buckets of the time bias.
        relative_bias: whether attention has a position and time bias.
        temperature: of the next-item softmax.
        dropout: in training.
    """

    num_items: int
    num_actions: int
    tasks: tuple[str, ...]
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    head_dim: int = 32
    max_history: int = 255
    chunk_size: int = 64
    norm_length: int = 256
    num_time_buckets: int = 64
    relative_bias: bool = True
    temperature: float = 0.05
    dropout: float = 0.2

    def __post_init__(self) -> None:
        positive = (
            "num_items num_actions hidden_size num_layers num_heads head_dim max_history "
            "chunk_size norm_length num_time_buckets"
        )
        for name in positive.split():
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; it must be at least 1")
        if self.chunk_size > self.max_history:
            raise ConfigError(
                f"model.chunk_size is {self.chunk_size}; it must not exceed max_history, "
                f"{self.max_history}"
            )
        if not self.temperature > 0:
            raise ConfigError(f"model.temperature is {self.temperature}; it must be above 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout is {self.dropout}; it must be in [0, 1)")

    @property
    def max_rows(self) -> int:
        """Most rows of a history: its events and the start row."""
        return self.max_history + 1

    @property
    def alpha(self) -> float:
        """Scale of q·kᵀ."""
        return float(self.head_dim**-0.5)

    def to_dict(self) -> dict[str, Any]:
        """As ``config.json`` holds it: also what vLLM and Transformers look for there."""
        return {
            "model_type": MODEL_TYPE,
            "architectures": [ARCHITECTURE],
            **asdict(self),
            "tasks": list(self.tasks),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HSTUConfig:
        """The reverse of `to_dict`; other keys are ignored.

        Raises:
            ArtifactError: it is not the configuration of such a model.
        """
        if values.get("model_type") != MODEL_TYPE:
            raise ArtifactError(
                f"config.json: model_type is {values.get('model_type')!r}, not {MODEL_TYPE!r}; "
                "point at a model that this project made"
            )
        known = {f.name for f in fields(cls)}
        missing = {"num_items", "num_actions", "tasks"} - values.keys()
        if missing:
            raise ArtifactError(f"config.json: {', '.join(sorted(missing))} missing")
        own = {name: value for name, value in values.items() if name in known}
        return cls(**{**own, "tasks": tuple(own["tasks"])})
