"""The model as vLLM runs it: the weights and layers of `HSTU`, with attention over pages.

Letters in shapes: R rows of a step or of a candidate pass, W hidden width, C candidates of one
request, T tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context

from genrec_model.features.reserved import NO_ACTION
from genrec_model.hstu import HSTU
from genrec_model.hstu.layer import HSTULayer
from genrec_serving.next_item import NextItem
from genrec_serving.vllm_plugin.attention_backend import (
    PagedHSTUAttention,
    PagedRows,
    PageMetadata,
)
from genrec_serving.vllm_plugin.pooler import Candidates, HSTUPooler
from genrec_serving.vllm_plugin.prompt import ROW_WIDTH, unpack
from genrec_serving.vllm_plugin.timestamp_pages import TimestampPages

#: Most candidate rows in one pass. vLLM's token budget does not see candidates, so this is what
#: bounds the memory of a step in which many requests rank many items.
MAX_CANDIDATE_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class Step:
    """Pages of the step that is running, for the candidates that follow in the same step."""

    metadata: PageMetadata
    timestamp_pages: Tensor


class GenrecHSTU(nn.Module):
    """HSTU as a pooling model of vLLM.

    A prompt is a history, its start row first; candidates come with the request's pooling
    parameters (see `pooler`).
    """

    is_pooling_model = True
    default_seq_pooling_type = "LAST"
    default_tok_pooling_type = "ALL"
    #: Causal, so that vLLM keeps chunked prefill and prefix caching.
    attn_type = "decoder"
    score_type = "bi-encoder"

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config.hstu
        self.config = config
        self.hstu = HSTU(config)
        self.attention = nn.ModuleList(
            PagedHSTUAttention(config, prefix=f"{prefix}layers.{i}.attention")
            for i in range(config.num_layers)
        )
        self.timestamps = TimestampPages(prefix=f"{prefix}layers.{config.num_layers}.timestamps")
        self.pooler = HSTUPooler(
            user_embedding=self.hstu.user_embedding,
            next_item=self._next_item,
            task_logits=self._task_logits,
        )
        self._paged: dict[HSTULayer, PagedHSTUAttention] = dict(
            zip(self.hstu.layers, self.attention, strict=True)  # type: ignore[arg-type]
        )
        self._step: Step | None = None

    def embed_input_ids(self, input_ids: Tensor, **_: Any) -> Tensor:
        """Token ids as prompt rows of items without action or time; vLLM's dry runs need it."""
        words_R4 = torch.zeros(
            len(input_ids), ROW_WIDTH, dtype=torch.int32, device=input_ids.device
        )
        words_R4[:, 0] = input_ids
        return words_R4.view(torch.float32)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,  # noqa: ARG002  # vLLM's signature
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Hidden rows [R, W] of the step's history rows; their keys and values go to the pages."""
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed_input_ids(input_ids)
        rows = unpack(inputs_embeds)
        # Whoever builds the prompt has checked the ids; in a dry run they are noise.
        x_RW = self.hstu.embed(
            rows.items.clamp(0, self.config.num_items - 1),
            rows.actions.clamp(0, self.config.num_actions - 1),
            positions.clamp(0, self.config.max_rows),
        )
        metadata = self._page_metadata()
        if metadata is None:
            self._step = None
            return self.hstu.run_layers(x_RW, lambda _layer, q, _k, _v: torch.zeros_like(q))
        n = metadata.num_rows
        self.timestamps.write(rows.timestamps[:n], metadata.slots)
        self._step = Step(metadata=metadata, timestamp_pages=self.timestamps.times)
        paged_rows = PagedRows(
            page_table=metadata.page_table,
            row_offsets=metadata.row_offsets,
            key_limits=positions[:n],
            timestamps=rows.timestamps[:n],
            timestamp_pages=self.timestamps.times,
            max_new_rows=metadata.max_new_rows,
            max_keys=metadata.max_keys,
        )

        def attend(layer: HSTULayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            paged = self._paged[layer]
            # All writes of the layer come before its first read: a request may share pages with
            # one that fills them in this very step.
            paged.write(k[:n], v[:n], metadata.slots)
            out = torch.zeros_like(q)
            out[:n] = paged.attend(layer, q[:n], k[:n], v[:n], paged_rows)
            return out

        return self.hstu.run_layers(x_RW, attend)

    def _page_metadata(self) -> PageMetadata | None:
        """The step's metadata; None in vLLM's dry runs.

        The timestamps' layer has the same pages and slots as the attention layers: vLLM gives
        full-attention layers of one page size in rows one common page table.
        """
        by_layer = get_forward_context().attn_metadata
        if isinstance(by_layer, list):
            by_layer = by_layer[0]
        if by_layer is None:
            return None
        metadata: PageMetadata = by_layer[self.timestamps.layer_name]
        return metadata

    def _next_item(self) -> NextItem:
        return NextItem(self.hstu.catalogue_embedding(), self.config.temperature)

    def _task_logits(self, candidates: Sequence[Candidates]) -> list[Tensor]:
        """[C, T] of each request."""
        logits: list[Tensor] = []
        group: list[Candidates] = []
        rows = 0
        for one in candidates:
            if group and rows + len(one.items) > MAX_CANDIDATE_ROWS:
                logits += self._candidate_pass(group)
                group, rows = [], 0
            group.append(one)
            rows += len(one.items)
        return logits + self._candidate_pass(group)

    def _candidate_pass(self, candidates: Sequence[Candidates]) -> list[Tensor]:
        step = self._step
        assert step is not None, "candidates are scored in the step that finishes their history"
        device = step.timestamp_pages.device
        sizes = torch.tensor([len(one.items) for one in candidates])
        items_R = torch.cat([one.items.to(device) for one in candidates])
        limits_R = torch.tensor([one.history_rows for one in candidates]).repeat_interleave(sizes)
        limits_R = limits_R.to(device)
        times_R = torch.tensor([one.now for one in candidates]).repeat_interleave(sizes).to(device)
        rows = PagedRows(
            page_table=step.metadata.page_table[[one.request for one in candidates]],
            row_offsets=torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).to(device),
            key_limits=limits_R,
            timestamps=times_R,
            timestamp_pages=step.timestamp_pages,
            max_new_rows=int(sizes.max()),
            max_keys=max(one.history_rows for one in candidates),
        )

        def attend(layer: HSTULayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self._paged[layer].attend(layer, q, k, v, rows)

        x_RW = self.hstu.embed(items_R, torch.full_like(items_R, NO_ACTION), limits_R)
        hidden_RW = self.hstu.run_layers(x_RW, attend)
        logits_RT = self.hstu.task_logits(hidden_RW).float()
        return list(torch.split(logits_RT, sizes.tolist()))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Fill the model from an artifact's file; returns the names of what was filled.

        Raises:
            ValueError: the file has a parameter that the model lacks. vLLM itself complains
                about one that the file lacks.
        """
        parameters = dict(self.hstu.named_parameters())
        loaded = set()
        for name, value in weights:
            if name not in parameters:
                raise ValueError(f"model.safetensors has {name}, which the model lacks")
            parameters[name].data.copy_(value)
            loaded.add(f"hstu.{name}")
        return loaded
