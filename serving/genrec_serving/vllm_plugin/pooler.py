"""From the hidden rows of finished histories to items, scores and task logits.

Letters in shapes: R rows of the step, F finished requests, W hidden width, C candidates of one
request, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from vllm.model_executor.layers.pooler import Pooler
from vllm.v1.pool.metadata import PoolingMetadata

from genrec_cache.streams import sent, sent_back
from genrec_serving.next_item import NextItem
from genrec_serving.vllm_plugin.candidate_pass import Asked
from genrec_serving.vllm_plugin.pooling_request import RankOp, RecommendOp, parse_op

#: The engine's only pooling task; `token_*` tasks would not read the prefix cache.
TASK = "classify"
#: Most candidate rows in one pass. vLLM's token budget does not see candidates, so this is what
#: bounds the memory of a step in which many requests rank many items.
MAX_CANDIDATE_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A request whose history is complete.

    Args:
        request: its place in the step's batch.
        last_row: of its history, in the step's hidden rows.
        history_rows: of its history.
        op: what it asks; None for its user vector.
    """

    request: int
    last_row: int
    history_rows: int
    op: RecommendOp | RankOp | None


class Found(NamedTuple):
    """What a search found for one request: int64 and float32 [C]; -1 where a filter left none."""

    items: Tensor
    scores: Tensor


class HSTUPooler(Pooler):
    """Answers each finished request with float64 [C, 2 + T]: item, next-item score, task logits.

    Doubles hold every item row exactly. Where a filter left none the item is -1. A request
    that asks nothing gets its user vector [W].

    On a GPU nothing waits for it: answers are CPU tensors that are on their way. vLLM, which waits
    for the stream before it hands them on, prepares the next step meanwhile.

    Args:
        user_embedding: hidden rows [F, W] to unit vectors.
        next_item: made when it is first needed, as the weights are not loaded before.
        score: see `CandidatePass`, over the pages of the step.
    """

    def __init__(
        self,
        *,
        user_embedding: Callable[[Tensor], Tensor],
        next_item: Callable[[], NextItem],
        score: Callable[[Tensor, Sequence[Asked], Tensor | None], Tensor],
    ) -> None:
        super().__init__()
        self._user_embedding = user_embedding
        self._make_next_item = next_item
        self._score = score

    @cached_property
    def _next_item(self) -> NextItem:
        return self._make_next_item()

    def get_supported_tasks(self) -> set[str]:
        """One task only: an engine serves one."""
        return {TASK}

    def forward(
        self, hidden_states: Tensor, pooling_metadata: PoolingMetadata
    ) -> list[Tensor | None]:
        """An answer for each request of the batch, None where its history goes on."""
        answers: list[Tensor | None] = [None] * len(pooling_metadata.pooling_params)
        finished = finished_requests(pooling_metadata)
        silent = [one for one in finished if one.op is None]
        if silent:
            users = self._users(hidden_states, silent).float()
            for one, user in zip(silent, users, strict=True):
                answers[one.request] = user
        # Searching ones come last in their pass: the GPU alone knows their candidates.
        ranking = [one for one in finished if isinstance(one.op, RankOp)]
        found = self._search(hidden_states, finished)
        asked = [*ranking, *(one for one in finished if one.request in found)]
        for group in _passes(asked, found):
            columns = self._columns(hidden_states, group, found)
            for one, part in zip(group, columns, strict=True):
                answers[one.request] = part
        return answers

    def _users(self, hidden: Tensor, finished: Sequence[Finished]) -> Tensor:
        last = torch.tensor([one.last_row for one in finished])
        return self._user_embedding(hidden[sent(last, hidden.device)])

    def _columns(
        self, hidden: Tensor, group: Sequence[Finished], found: dict[int, Found]
    ) -> Sequence[Tensor]:
        """Answers of one pass, on their way to the CPU in one copy."""
        asked = [_asked(one, found.get(one.request)) for one in group]
        searched = [found[one.request] for one in group if one.request in found]
        items = torch.cat([one.items for one in searched]) if searched else None
        columns = self._score(hidden, asked, items)
        if items is not None:
            # As the search has them: its products are rounded in another way.
            columns[-len(items) :, 0] = items
            columns[-len(items) :, 1] = torch.cat([one.scores for one in searched])
        return torch.split(sent_back(columns), [len(one.items) for one in asked])

    def _search(self, hidden: Tensor, finished: Sequence[Finished]) -> dict[int, Found]:
        """What was found for each request that searches, by its place in the batch."""
        searching = [one for one in finished if isinstance(one.op, RecommendOp)]
        if not searching:
            return {}
        users = dict(
            zip((one.request for one in searching), self._users(hidden, searching), strict=True)
        )
        found: dict[int, Found] = {}
        free = [
            one for one in searching if isinstance(one.op, RecommendOp) and one.op.allow is None
        ]
        if free:
            found |= self._best(users, free)
        for one in searching:
            if one.request not in found:  # a list of its own of what may be shown
                found |= self._best(users, [one])
        return found

    def _best(self, users: dict[int, Tensor], asked: Sequence[Finished]) -> dict[int, Found]:
        ops = [one.op for one in asked if isinstance(one.op, RecommendOp)]
        exclude = torch.nn.utils.rnn.pad_sequence(
            [op.exclude for op in ops], batch_first=True, padding_value=-1
        )
        allow = ops[0].allow
        users_FW = torch.stack([users[one.request] for one in asked])
        device = users_FW.device
        top = self._next_item.best(
            users_FW,
            k=max(op.k for op in ops),
            exclude=sent(exclude, device),
            allow=None if allow is None else sent(allow, device),
        )
        return {
            one.request: Found(items[: op.k], scores[: op.k])
            for one, op, items, scores in zip(asked, ops, top.items, top.scores, strict=True)
        }


def finished_requests(metadata: PoolingMetadata) -> list[Finished]:
    """Requests whose histories are complete with this step; nothing here waits for a GPU."""
    cursor = metadata.get_pooling_cursor()
    lengths = cursor.seq_lens_cpu.tolist()
    prompts = cursor.prompt_lens_cpu.tolist()
    last_rows = (np.cumsum(cursor.num_scheduled_tokens_cpu.numpy()) - 1).tolist()
    return [
        Finished(
            request=i,
            last_row=last_rows[i],
            history_rows=lengths[i],
            op=parse_op(metadata.pooling_params[i].extra_kwargs),
        )
        for i in range(len(lengths))
        if prompts[i] == lengths[i]
    ]


def _asked(one: Finished, found: Found | None) -> Asked:
    assert one.op is not None
    if isinstance(one.op, RankOp):
        items = one.op.candidates
    else:
        assert found is not None
        items = np.zeros(len(found.items), np.int64)
    return Asked(
        request=one.request,
        last_row=one.last_row,
        history_rows=one.history_rows,
        now=one.op.now,
        items=items,
    )


def _passes(asked: Sequence[Finished], found: dict[int, Found]) -> Iterator[list[Finished]]:
    """Requests whose candidates go through the layers together, in their order."""
    group: list[Finished] = []
    rows = 0
    for one in asked:
        if isinstance(one.op, RankOp):
            count = len(one.op.candidates)
        else:
            count = len(found[one.request].items)
        if group and rows + count > MAX_CANDIDATE_ROWS:
            yield group
            group, rows = [], 0
        group.append(one)
        rows += count
    if group:
        yield group
