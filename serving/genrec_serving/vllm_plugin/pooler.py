"""From the hidden rows of finished histories to items, scores and task logits.

Candidates never enter the prompt: there they would fill the prefix cache with rows that nobody
asks for again. When a history is finished, its candidates run through the layers beside it,
together with those of all other histories that finish in the same step.

Letters in shapes: R rows of the step, F finished requests, V rows of the item table, W hidden
width, C candidates of one request, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from vllm.model_executor.layers.pooler import Pooler
from vllm.v1.pool.metadata import PoolingMetadata

from genrec_serving.next_item import NextItem, best
from genrec_serving.vllm_plugin.pooling_request import RankOp, RecommendOp, parse_op

#: The engine's only pooling task; `token_*` tasks would not read the prefix cache.
TASK = "classify"
#: Columns of an answer before the task logits: the item's row and its next-item score.
NUM_FIXED_COLUMNS = 2


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Candidates of one finished request.

    Args:
        request: its place in the step's batch.
        history_rows: rows of its history, all in the pages.
        items: int64 [C].
        now: unix seconds.
    """

    request: int
    history_rows: int
    items: Tensor
    now: int


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A request whose history is complete."""

    request: int
    history_rows: int
    user: Tensor
    op: RecommendOp | RankOp | None


class HSTUPooler(Pooler):
    """Answers each finished request with float64 [n, 2 + T]: item, next-item score, task logits.

    Doubles hold every item row exactly. A request that asks nothing gets its user vector [W].

    Args:
        user_embedding: hidden rows [F, W] to unit vectors.
        next_item: made when it is first needed, as the weights are not loaded before.
        task_logits: of candidates of several requests, [C, T] each.
    """

    def __init__(
        self,
        *,
        user_embedding: Callable[[Tensor], Tensor],
        next_item: Callable[[], NextItem],
        task_logits: Callable[[Sequence[Candidates]], list[Tensor]],
    ) -> None:
        super().__init__()
        self._user_embedding = user_embedding
        self._make_next_item = next_item
        self._task_logits = task_logits

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
        finished = self._finished(hidden_states, pooling_metadata)
        for one in finished:
            if one.op is None:
                answers[one.request] = one.user.float()
        asked = [one for one in finished if one.op is not None]
        if not asked:
            return answers
        chosen = self._choose(asked)
        candidates = [
            Candidates(
                request=one.request,
                history_rows=one.history_rows,
                items=items,
                now=one.op.now if one.op else 0,
            )
            for one, (items, _) in zip(asked, chosen, strict=True)
        ]
        logits = self._task_logits(candidates)
        for one, (items, scores), logits_CT in zip(asked, chosen, logits, strict=True):
            columns = [items[:, None].double(), scores[:, None].double(), logits_CT.double()]
            answers[one.request] = torch.cat(columns, dim=1)
        return answers

    def _finished(self, hidden: Tensor, metadata: PoolingMetadata) -> list[Finished]:
        cursor = metadata.get_pooling_cursor()
        lengths = cursor.seq_lens_cpu.tolist()
        done = (cursor.prompt_lens_cpu == cursor.seq_lens_cpu).tolist()
        last_rows = (cursor.num_scheduled_tokens_cpu.cumsum(0) - 1).tolist()
        places = [i for i, is_done in enumerate(done) if is_done]
        if not places:
            return []
        users_FW = self._user_embedding(hidden[[last_rows[i] for i in places]])
        return [
            Finished(
                request=i,
                history_rows=lengths[i],
                user=user_W,
                op=parse_op(metadata.pooling_params[i].extra_kwargs),
            )
            for i, user_W in zip(places, users_FW, strict=True)
        ]

    def _choose(self, asked: Sequence[Finished]) -> list[tuple[Tensor, Tensor]]:
        """Items and next-item scores of each request, [C] each."""
        searching = [one.user for one in asked if isinstance(one.op, RecommendOp)]
        scores_of_next = iter(
            self._next_item.catalogue_scores(torch.stack(searching)).unbind() if searching else ()
        )
        chosen: list[tuple[Tensor, Tensor]] = []
        for one in asked:
            device = one.user.device
            if isinstance(one.op, RecommendOp):
                allow = one.op.allow
                top = best(
                    next(scores_of_next),
                    k=one.op.k,
                    exclude=one.op.exclude.to(device),
                    allow=None if allow is None else allow.to(device),
                )
                chosen.append((top.items, top.scores))
            elif one.op is not None:
                items = one.op.candidates
                scores = self._next_item.scores_of(one.user, items)
                chosen.append((items.to(device), scores))
        return chosen
