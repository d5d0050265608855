"""Tensors of KServe's V2 protocol (Open Inference Protocol): the contract, and its checks.

Inputs, for B users with histories of at most L events:

===================== ======= ============== ==================================================
name                  shape   datatype       meaning
===================== ======= ============== ==================================================
history_items         [B, L]  INT64 or BYTES item ids, oldest event first, padded on the right
history_actions       [B, L]  BYTES or INT64 names of actions, or their places in the data set
history_timestamps    [B, L]  INT64          unix seconds
history_lengths       [B]     INT64          events of each user, 0 to L
user_id               [B]     INT64 or BYTES instead of the four above: users the server knows
candidates (optional) [B, C]  INT64 or BYTES items to rank; without them the server recommends
===================== ======= ============== ==================================================

Parameters of the request: ``k`` (default 10), ``exclude_seen``, ``now``, ``strategy`` and, with
candidates, ``order_by``.

Outputs, with N = k, or C where candidates are given:

===================== ======= ============== ==================================================
items                 [B, N]  INT64 or BYTES item ids as the catalogue has them, best first
scores                [B, N]  FP32           next-item logits
<task>                [B, N]  FP32           probability, one output for each task of the model
counts                [B]     INT64          items that each user got
===================== ======= ============== ==================================================

Where a user gets fewer than N items, the rest is the marker -1 (or an empty string) in ``items``
and 0 in the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from kserve import InferInput, InferOutput, InferRequest
from kserve.protocol.infer_type import to_http_parameters
from msgspec import Meta

from genrec_model.errors import RequestError
from genrec_model.features.vocabulary import ItemId, Vocabulary
from genrec_serving.requests import (
    MAX_CANDIDATES,
    MAX_EVENTS,
    MAX_K,
    Answer,
    Events,
    RankQuery,
    RecommendQuery,
)
from genrec_serving.strategies.strategy import Strategy
from genrec_serving.surfaces.schemas import MAX_BATCH, Body, parse_value
from genrec_serving.surfaces.v2_decode import Array, decode, wrong

#: Parameters that belong to the protocol, not to the model.
_PROTOCOL_PARAMETERS = {"binary_data_output", "binary_data_size"}
_HISTORY = ("history_items", "history_actions", "history_timestamps", "history_lengths")
_INPUTS = (*_HISTORY, "user_id", "candidates")
_PADDING_ID = -1
#: Where a field of a query is in the tensors.
_TENSOR_OF = {
    "item_id": "history_items",
    "action": "history_actions",
    "timestamp": "history_timestamps",
}


class Parameters(Body, frozen=True, kw_only=True):
    """Parameters of a request; see the module's description."""

    k: Annotated[int, Meta(ge=1, le=MAX_K)] = 10
    exclude_seen: bool | None = None
    now: int | None = None
    strategy: Strategy | None = None
    order_by: str | None = None


class TensorCodec:
    """Between tensors and queries, for one model.

    Args:
        vocabulary: of the model.
        tasks: of the model.
    """

    def __init__(self, vocabulary: Vocabulary, tasks: Sequence[str]) -> None:
        self._actions = vocabulary.actions
        self._tasks = tuple(tasks)
        self._integer_ids = isinstance(vocabulary.item_ids[0], int)

    @property
    def input_types(self) -> list[dict[str, Any]]:
        """Inputs, as the model's metadata shows them."""
        ids = self._id_type
        return [
            {"name": "history_items", "datatype": ids, "shape": [-1, -1]},
            {"name": "history_actions", "datatype": "BYTES", "shape": [-1, -1]},
            {"name": "history_timestamps", "datatype": "INT64", "shape": [-1, -1]},
            {"name": "history_lengths", "datatype": "INT64", "shape": [-1]},
            {"name": "user_id", "datatype": "BYTES", "shape": [-1]},
            {"name": "candidates", "datatype": ids, "shape": [-1, -1]},
        ]

    @property
    def output_types(self) -> list[dict[str, Any]]:
        """Outputs, as the model's metadata shows them."""
        return [
            {"name": "items", "datatype": self._id_type, "shape": [-1, -1]},
            *({"name": n, "datatype": "FP32", "shape": [-1, -1]} for n in ("scores", *self._tasks)),
            {"name": "counts", "datatype": "INT64", "shape": [-1]},
        ]

    def queries(self, request: InferRequest) -> list[RecommendQuery] | list[RankQuery]:
        """One query a user.

        Raises:
            RequestError: with status 400; the field is the tensor or the parameter.
        """
        tensors = self._tensors(request)
        parameters = self._parameters(request)
        outputs = {output["name"] for output in self.output_types}
        for output in request.request_outputs or ():
            if output.name not in outputs:
                raise RequestError(
                    f"is no output; there are {', '.join(sorted(outputs))}",
                    field=f"outputs.{output.name}",
                    status=400,
                )
        users = self._users(tensors)
        if "candidates" not in tensors:
            if parameters.order_by is not None:
                raise wrong("parameters.order_by", "is for requests with candidates")
            return [
                RecommendQuery(
                    **user,
                    now=parameters.now,
                    strategy=parameters.strategy,
                    k=parameters.k,
                    exclude_seen=parameters.exclude_seen,
                )
                for user in users
            ]
        candidates = decode(tensors["candidates"], ("INT64", "BYTES"), dimensions=2)
        _same_batch("candidates", candidates, len(users))
        columns = candidates.shape[1]
        if columns > MAX_CANDIDATES:
            raise wrong("candidates", f"has {columns} columns, {MAX_CANDIDATES} at most")
        return [
            RankQuery(
                **user,
                now=parameters.now,
                strategy=parameters.strategy,
                candidates=self._ids(row, "candidates"),
                order_by=parameters.order_by,
            )
            for user, row in zip(users, candidates, strict=True)
        ]

    def outputs(self, answers: Sequence[Answer], width: int, *, binary: bool) -> list[InferOutput]:
        """Output tensors of all users' answers, padded to `width` items.

        Args:
            answers: one a user.
            width: N.
            binary: as raw bytes; else KServe decides when it writes the response.
        """
        shape = (len(answers), width)
        items = np.full(shape, _PADDING_ID if self._integer_ids else "", self._id_dtype)
        columns = {name: np.zeros(shape, np.float32) for name in ("scores", *self._tasks)}
        for row, answer in enumerate(answers):
            n = len(answer.items)
            items[row, :n] = [item.item_id for item in answer.items]
            columns["scores"][row, :n] = [item.score for item in answer.items]
            for task in self._tasks:
                columns[task][row, :n] = [item.tasks[task] for item in answer.items]
        counts = np.array([len(answer.items) for answer in answers], np.int64)
        arrays = {"items": items, **columns, "counts": counts}
        outputs = []
        for described in self.output_types:
            array = arrays[described["name"]]
            output = InferOutput(described["name"], list(array.shape), described["datatype"])
            if binary:
                output.set_data_from_numpy(array, binary_data=True)
            else:
                output.data = array
            outputs.append(output)
        return outputs

    @property
    def _id_type(self) -> str:
        return "INT64" if self._integer_ids else "BYTES"

    @property
    def _id_dtype(self) -> npt.DTypeLike:
        return np.int64 if self._integer_ids else np.object_

    def _tensors(self, request: InferRequest) -> dict[str, InferInput]:
        tensors: dict[str, InferInput] = {}
        for tensor in request.inputs:
            if tensor.name not in _INPUTS:
                raise wrong(str(tensor.name), f"is no input; there are {', '.join(_INPUTS)}")
            if tensor.name in tensors:
                raise wrong(tensor.name, "is given twice")
            tensors[tensor.name] = tensor
        return tensors

    def _parameters(self, request: InferRequest) -> Parameters:
        given = to_http_parameters(request.parameters) if request.parameters else {}
        own = {name: v for name, v in given.items() if name not in _PROTOCOL_PARAMETERS}
        try:
            return parse_value(Parameters, own)
        except RequestError as error:
            raise at(error, f"parameters.{error.field}") from error

    def _users(self, tensors: Mapping[str, InferInput]) -> list[dict[str, Any]]:
        """Arguments of a query that say who the user is."""
        if "user_id" in tensors:
            both = [name for name in _HISTORY if name in tensors]
            if both:
                raise wrong(both[0], "give either histories or user_id, not both")
            ids = decode(tensors["user_id"], ("INT64", "BYTES"), dimensions=1)
            _check_batch("user_id", len(ids))
            return [{"user_id": user} for user in ids.tolist()]
        missing = [name for name in _HISTORY if name not in tensors]
        if missing:
            raise wrong(missing[0], "is missing")
        items = decode(tensors["history_items"], ("INT64", "BYTES"), dimensions=2)
        _check_batch("history_items", len(items))
        if items.shape[1] > MAX_EVENTS:
            raise wrong("history_items", f"has {items.shape[1]} columns, {MAX_EVENTS} at most")
        actions = decode(tensors["history_actions"], ("BYTES", "INT64"), dimensions=2)
        times = decode(tensors["history_timestamps"], ("INT64",), dimensions=2)
        for name, tensor in (("history_actions", actions), ("history_timestamps", times)):
            if tensor.shape != items.shape:
                raise wrong(
                    name,
                    f"has the shape {list(tensor.shape)}, history_items has {list(items.shape)}",
                )
        lengths = decode(tensors["history_lengths"], ("INT64",), dimensions=1)
        _same_batch("history_lengths", lengths, len(items))
        users = []
        for row, n in enumerate(lengths.tolist()):
            if not 0 <= n <= items.shape[1]:
                raise wrong(
                    f"history_lengths[{row}]", f"is {n}, not between 0 and {items.shape[1]}"
                )
            events = Events(
                item_ids=self._ids(items[row, :n], "history_items"),
                actions=self._action_names(actions[row, :n], row),
                timestamps=times[row, :n].tolist(),
            )
            users.append({"history": events})
        return users

    def _ids(self, ids: Array, name: str) -> list[ItemId]:
        """Ids of the catalogue's type; BYTES may carry integers too."""
        values: list[ItemId] = ids.tolist()
        if not self._integer_ids or ids.dtype != np.object_:
            return values
        try:
            return [int(value) for value in values]
        except ValueError as error:
            raise wrong(name, f"{error}; ids of this catalogue are integers") from error

    def _action_names(self, actions: Array, row: int) -> list[str]:
        if actions.dtype == np.object_:
            return list(actions)
        values: list[int] = actions.tolist()
        for column, place in enumerate(values):
            if not 0 <= place < len(self._actions):
                raise wrong(
                    f"history_actions[{row},{column}]",
                    f"is {place}; there are {len(self._actions)} actions, the first is 0",
                )
        return [self._actions[place] for place in values]


def tensor_error(error: RequestError, row: int) -> RequestError:
    """An error of one user's query, as an error of the tensors: status 400 at least.

    An unknown user stays a 404.
    """
    field = error.field
    if found := re.fullmatch(r"history\[(\d+)\]\.(\w+)", field):
        place = f"{_TENSOR_OF[found[2]]}[{row},{found[1]}]"
    elif found := re.fullmatch(r"candidates\[(\d+)\]", field):
        place = f"candidates[{row},{found[1]}]"
    elif field in {"now", "strategy", "k", "order_by"}:
        place = f"parameters.{field}"
    elif field == "history":
        place = f"history_items[{row}]"
    else:
        place = f"{field}[{row}]"
    return at(error, place, status=404 if error.status == 404 else 400)


def at(error: RequestError, field: str, *, status: int = 400) -> RequestError:
    """The same complaint about another field."""
    return RequestError(error.message, field=field, status=status)


def _check_batch(name: str, users: int) -> None:
    if not 1 <= users <= MAX_BATCH:
        raise wrong(name, f"has {users} users; 1 to {MAX_BATCH} are allowed")


def _same_batch(name: str, tensor: Array, users: int) -> None:
    if len(tensor) != users:
        raise wrong(name, f"has {len(tensor)} users, other tensors have {users}")
