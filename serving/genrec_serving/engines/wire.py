"""What goes between a server and an engine in a process of its own, as msgpack."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from genrec_serving.engines.interface import Scored

#: Id of the first reply: the engine started.
READY = -1
#: Id of a first reply that says why it did not.
FAILED = -2
#: Id of replies that nobody asked for, `BEAT_S` seconds apart: how the engine does.
BEAT = -3
BEAT_S = 0.5


class Start(msgspec.Struct, frozen=True, array_like=True):
    """The first message to a worker.

    artifact: path of the model.
    version: salts the prefix cache.
    options: fields of `VllmOptions`.
    door: path of a socket at which others may ask too; None where nobody does.
    gpu: which of the GPUs that the server sees is the engine's; None for the first, or none.
    """

    artifact: str
    version: str
    options: dict[str, Any]
    door: str | None = None
    gpu: int | None = None


class Ask(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A request.

    id: no other one of the moment.
    prompt: float32 [R, 4], from `vllm_plugin.prompt.pack`; empty to ask for statistics.
    kwargs: from `vllm_plugin.pooling_request`.
    dropped: nobody waits any more for the answer to the request of this id.
    """

    id: int
    prompt: bytes = b""
    kwargs: dict[str, Any] = {}
    dropped: bool = False


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An answer: the fields of `Scored` for n items and `tasks` tasks, or an error.

    items: int64 [n]; scores: float32 [n]; task_logits: float32 [n, tasks].
    statistics: of the engine, where these were asked for.
    unavailable: of a failed start, whether vLLM cannot run here at all.
    stalled_s: in a beat, see `ScoringEngine`.
    """

    id: int
    items: bytes = b""
    scores: bytes = b""
    task_logits: bytes = b""
    tasks: int = 0
    cached_rows: int = 0
    error: str | None = None
    statistics: dict[str, Any] | None = None
    unavailable: bool = False
    stalled_s: float = 0.0

    def scored(self) -> Scored:
        """The answer to a question."""
        items = np.frombuffer(self.items, np.int64)
        return Scored(
            items=items,
            scores=np.frombuffer(self.scores, np.float32),
            task_logits=np.frombuffer(self.task_logits, np.float32).reshape(len(items), self.tasks),
            cached_rows=self.cached_rows,
        )
