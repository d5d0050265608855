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

from genrec_cache.streams import sent, sent_back
from genrec_serving.next_item import NextItem
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
        items: int64 [C], on the model's device.
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

    Doubles hold every item row exactly. Where a filter left none the item is -1. A request
    that asks nothing gets its user vector [W].

    On a GPU nothing waits for it: answers are CPU tensors that are on their way. vLLM, which waits
    for the stream before it hands them on, prepares the next step meanwhile.

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
        if asked:
            for one, columns in zip(asked, self._columns(asked), strict=True):
                answers[one.request] = columns
        return answers

    def _columns(self, asked: Sequence[Finished]) -> list[Tensor]:
        """Answers of finished requests, on their way to the CPU in one copy."""
        chosen = self._choose(asked)
        candidates = [
            Candidates(
                request=one.request,
                history_rows=one.history_rows,
                # What a filter left empty is computed like the rest.
                items=items.clamp(min=0) if isinstance(one.op, RecommendOp) else items,
                now=one.op.now if one.op else 0,
            )
            for one, (items, _) in zip(asked, chosen, strict=True)
        ]
        logits_RT = torch.cat(self._task_logits(candidates))
        items_R = torch.cat([items for items, _ in chosen])
        scores_R = torch.cat([scores for _, scores in chosen])
        fixed = torch.stack([items_R.double(), scores_R.double()], dim=1)
        columns = sent_back(torch.cat([fixed, logits_RT.double()], dim=1))
        return list(torch.split(columns, [len(items) for items, _ in chosen]))

    def _finished(self, hidden: Tensor, metadata: PoolingMetadata) -> list[Finished]:
        cursor = metadata.get_pooling_cursor()
        lengths = cursor.seq_lens_cpu.tolist()
        done = (cursor.prompt_lens_cpu == cursor.seq_lens_cpu).tolist()
        last_rows = (cursor.num_scheduled_tokens_cpu.cumsum(0) - 1).tolist()
        places = [i for i, is_done in enumerate(done) if is_done]
        if not places:
            return []
        # Nothing here waits for a GPU, which still works on the history rows.
        last = torch.tensor([last_rows[i] for i in places])
        users_FW = self._user_embedding(hidden[sent(last, hidden.device)])
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
        """Items and next-item scores of each request, [C] each; -1 where a filter left none."""
        chosen: dict[int, tuple[Tensor, Tensor]] = {}
        ranking = [one for one in asked if isinstance(one.op, RankOp)]
        if ranking:
            chosen |= self._rank(ranking)
        searching = [one for one in asked if isinstance(one.op, RecommendOp)]
        free = [
            one for one in searching if isinstance(one.op, RecommendOp) and one.op.allow is None
        ]
        if free:
            chosen |= self._search(free)
        for one in searching:
            if one.request not in chosen:  # a list of its own of what may be shown
                chosen |= self._search([one])
        return [chosen[one.request] for one in asked]

    def _rank(self, asked: Sequence[Finished]) -> dict[int, tuple[Tensor, Tensor]]:
        device = asked[0].user.device
        lists = [one.op.candidates for one in asked if isinstance(one.op, RankOp)]
        sizes = [len(items) for items in lists]
        known = torch.cat(lists)
        items = sent(known, device)
        users = torch.stack([one.user for one in asked])
        repeats = sent(torch.tensor(sizes), device)
        users = users.repeat_interleave(repeats, dim=0, output_size=sum(sizes))
        scores = self._next_item.scores_of(users, known)
        parts = zip(torch.split(items, sizes), torch.split(scores, sizes), strict=True)
        return dict(zip((one.request for one in asked), parts, strict=True))

    def _search(self, asked: Sequence[Finished]) -> dict[int, tuple[Tensor, Tensor]]:
        device = asked[0].user.device
        ops = [one.op for one in asked if isinstance(one.op, RecommendOp)]
        exclude = torch.nn.utils.rnn.pad_sequence(
            [op.exclude for op in ops], batch_first=True, padding_value=-1
        )
        allow = ops[0].allow
        top = self._next_item.best(
            torch.stack([one.user for one in asked]),
            k=max(op.k for op in ops),
            exclude=sent(exclude, device),
            allow=None if allow is None else sent(allow, device),
        )
        return {
            one.request: (items[: op.k], scores[: op.k])
            for one, op, items, scores in zip(asked, ops, top.items, top.scores, strict=True)
        }
