"""The model as vLLM runs it: the weights and layers of `HSTU`, with attention over pages.

Letters in shapes: R rows of a step or of a candidate pass, W hidden width, C candidates of one
request, T tasks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context

from genrec_cache.stored_matrix import StoredMatrix
from genrec_kernels.fp8_pages import FP8
from genrec_model.hstu import HSTU
from genrec_model.hstu.layer import AttendedParts, HSTULayer
from genrec_serving.catalogue import Catalogue, ResidentCatalogue
from genrec_serving.next_item import NextItem, scores_of_vectors
from genrec_serving.vllm_plugin.attention_backend import PagedHSTUAttention, PageMetadata
from genrec_serving.vllm_plugin.candidate_pass import (
    NUM_FIXED_COLUMNS,
    Asked,
    CandidateInputs,
    CandidatePass,
)
from genrec_serving.vllm_plugin.compute import compute_options
from genrec_serving.vllm_plugin.fp8_pages import page_scales
from genrec_serving.vllm_plugin.graphs import Graphs
from genrec_serving.vllm_plugin.host_connector import host_copies
from genrec_serving.vllm_plugin.host_copies import HostCopies
from genrec_serving.vllm_plugin.item_rows import ItemRows, item_cache_options
from genrec_serving.vllm_plugin.passes import Passes, PassInputs, PassOptions, all_sizes
from genrec_serving.vllm_plugin.pooler import HSTUPooler
from genrec_serving.vllm_plugin.prompt import ROW_WIDTH, unpack
from genrec_serving.vllm_plugin.timestamp_pages import TimestampPages

logger = logging.getLogger(__name__)

_ITEM_TABLE = "item_embedding.weight"


class _AllPasses(NamedTuple):
    """What runs through the layers, and the graphs of both kinds."""

    graphs: Graphs
    histories: Passes
    candidates: CandidatePass

    def capture(self, max_requests: int) -> None:
        """Capture all sizes, so that no request waits for a capture, or for a kernel to compile."""
        begin = time.perf_counter()
        for size in all_sizes(max_requests):
            (self.histories if size.writes else self.candidates).capture(size)
        logger.info(
            "%d graphs of passes captured in %.1f s", len(self.graphs), time.perf_counter() - begin
        )


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
        self.compute = compute_options(vllm_config)
        # Without memory for the item table, which is read where it stays (see `item_rows`).
        items = nn.Embedding(config.num_items, config.hidden_size, device="meta")
        # vLLM ends the training mode after the weights are loaded, when scales were measured.
        self.hstu = HSTU(config, item_embedding=items).to(self.compute.dtype).eval()
        self.attention = nn.ModuleList(
            PagedHSTUAttention(
                config, self.compute.page_dtype, prefix=f"{prefix}layers.{i}.attention"
            )
            for i in range(config.num_layers)
        )
        self.timestamps = TimestampPages(prefix=f"{prefix}layers.{config.num_layers}.timestamps")
        self.pooler = HSTUPooler(
            user_embedding=self.hstu.user_embedding,
            next_item=self._next_item,
            score=self._score,
        )
        self._paged: dict[HSTULayer, PagedHSTUAttention] = dict(
            zip(self.hstu.layers, self.attention, strict=True)  # type: ignore[arg-type]
        )
        self._item_cache = item_cache_options(vllm_config)
        self._weights = Path(vllm_config.model_config.model) / "model.safetensors"
        #: Made when the weights are loaded.
        self.item_rows: ItemRows | None = None
        self._max_requests = vllm_config.scheduler_config.max_num_seqs
        #: Pages of the requests of the step that is running, for the candidates that follow.
        self._page_table: Tensor | None = None

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
        metadata = self._page_metadata()
        self._page_table = None if metadata is None else metadata.page_table
        if metadata is None:
            return self._no_rows(len(inputs_embeds), inputs_embeds.device)
        n = metadata.num_rows
        if self._host is not None:
            self._host.begin(n)
        rows = unpack(inputs_embeds[:n])
        hidden_RW = self._pass(
            # Whoever builds the prompt has checked the ids; in a dry run they are noise.
            PassInputs(
                items=rows.items.clamp(0, self.config.num_items - 1),
                actions=rows.actions.clamp(0, self.config.num_actions - 1),
                limits=positions[:n].clamp(0, self.config.max_rows),
                timestamps=rows.timestamps,
                slots=metadata.slots,
                row_offsets=metadata.row_offsets,
                page_table=metadata.page_table,
                max_new_rows=metadata.max_new_rows,
                max_keys=metadata.max_keys,
            )
        )
        padding = len(inputs_embeds) - n
        if not padding:
            return hidden_RW
        return torch.cat([hidden_RW, self._no_rows(padding, hidden_RW.device)])

    def _no_rows(self, count: int, device: torch.device) -> Tensor:
        """Hidden rows that nobody reads."""
        return torch.zeros(count, self.config.hidden_size, dtype=self.compute.dtype, device=device)

    def _pass(self, inputs: PassInputs) -> Tensor:
        """Hidden rows [R, W], which the next pass overwrites."""
        with self._in_use(inputs.items):
            return self._passes.histories(inputs)

    def _score(self, hidden: Tensor, asked: Sequence[Asked], found: Tensor | None) -> Tensor:
        """See `CandidatePass`; over the pages of the step that finished the histories."""
        page_table = self._page_table
        assert page_table is not None, "candidates follow the step that finishes their history"
        return self._passes.candidates(hidden, page_table, asked, found)

    def _in_use(self, items: Tensor) -> AbstractContextManager[None]:
        """A block in which a pass over these items runs."""
        assert self.item_rows is not None
        if self._host is not None and self.compute.passes != "plain":
            self._host.wait_for_all()  # a graph is replayed whole
        return self.item_rows.pass_over(items)

    @cached_property
    def _host(self) -> HostCopies | None:
        """Copies between the pages and the host's memory, where there are any."""
        return host_copies()

    @cached_property
    def _passes(self) -> _AllPasses:
        """Made at the first pass, when the pages are there; a server's first request is its own."""
        assert self._page_table is not None
        graphs = Graphs()
        options = PassOptions(
            width=self.config.hidden_size,
            dtype=self.compute.dtype,
            max_requests=self._max_requests,
            max_pages=self._page_table.shape[1],
            max_keys=self.config.max_rows,
            device=self._page_table.device,
            mode=self.compute.passes,
        )
        passes = _AllPasses(
            graphs,
            Passes(self._run, graphs=graphs, options=options),
            CandidatePass(
                self._columns,
                in_use=self._in_use,
                graphs=graphs,
                options=options,
                columns=NUM_FIXED_COLUMNS + len(self.config.tasks),
                num_items=self.config.num_items,
            ),
        )
        if self.compute.passes == "graphs":
            passes.capture(self._max_requests)
        return passes

    def _run(self, inputs: PassInputs) -> Tensor:
        """Hidden rows [R, W] of history rows, whose keys and values stay in the pages."""
        x_RW = self.hstu.embed(inputs.items, inputs.actions, inputs.limits)
        return self._run_layers(inputs, x_RW)

    def _columns(self, inputs: CandidateInputs) -> Tensor:
        """Item, next-item score and task logits of candidates, float64 [R, 2 + T]."""
        rows = inputs.rows
        items_RW = self.hstu.item_embedding(rows.items)
        x_RW = self.hstu.embed_rows(items_RW, rows.actions, rows.limits)
        logits_RT = self.hstu.task_logits(self._run_layers(rows, x_RW)).float()
        # Of the catalogue, too, the vectors are normed so.
        users_RW = self.hstu.user_embedding(inputs.users)[inputs.owner]
        vectors_RW = self.hstu.user_embedding(items_RW)
        scores_R = scores_of_vectors(users_RW, vectors_RW, self.config.temperature)
        fixed_R2 = torch.stack([rows.items.double(), scores_R.double()], dim=1)
        return torch.cat([fixed_R2, logits_RT.double()], dim=1)

    def _run_layers(self, inputs: PassInputs, x: Tensor) -> Tensor:
        """Hidden rows [R, W] of one pass; those with slots leave their keys and values there."""

        def attend(layer: HSTULayer, q: Tensor, k: Tensor, v: Tensor) -> AttendedParts:
            paged = self._paged[layer]
            if self._host is not None:
                self._host.wait(self.timestamps.layer_name)
                self._host.wait(paged.layer_name)
            queries = None
            if inputs.slots is not None:
                # All writes of the layer come before its first read: a request may share pages
                # with one that fills them in this very step. The first layer writes the times.
                times = self.timestamps.times if layer is self.hstu.layers[0] else None
                queries = paged.write(layer, q, k, v, inputs, timestamp_pages=times)
            return paged.attend(layer, q, k, v, inputs, self.timestamps.times, queries)

        return self.hstu.run_layers(x, attend)

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
        assert self.item_rows is not None
        catalogue: Catalogue | None = self.item_rows.catalogue
        if catalogue is None:
            catalogue = ResidentCatalogue(self.hstu.catalogue_embedding())
        return NextItem(catalogue, self.config.temperature)

    def statistics(self) -> dict[str, Any]:
        """How passes run, and how the item cache does."""
        passes = self.__dict__.get("_passes")
        return {
            "dtype": str(self.compute.dtype).removeprefix("torch."),
            "page_dtype": str(self.compute.page_dtype).removeprefix("torch."),
            "linear_dtype": str(self.compute.linear_dtype).removeprefix("torch."),
            "passes": self.compute.passes,
            "graphs": 0 if passes is None else len(passes.graphs),
            "item_cache": None if self.item_rows is None else self.item_rows.statistics(),
        }

    def close(self) -> None:
        """Keep what the item cache learnt, and end its threads."""
        if self.item_rows is not None:
            self.item_rows.close()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Fill the model from an artifact's file; returns the names of what was filled.

        The item table is not taken from `weights`, where it would be as a whole.

        Raises:
            ValueError: the file has a parameter that the model lacks, or an item table of another
                shape. vLLM itself complains about one that the file lacks.
            ConfigError: the GPU does not know a data type that was asked for.
        """
        device = self.hstu.action_embedding.weight.device
        self.compute.check_device(device)
        parameters = dict(self.hstu.named_parameters())
        loaded = set()
        for name, value in weights:
            if name not in parameters:
                raise ValueError(f"model.safetensors has {name}, which the model lacks")
            if name != _ITEM_TABLE:
                parameters[name].data.copy_(value)
            loaded.add(f"hstu.{name}")
        table = StoredMatrix.find(self._weights, _ITEM_TABLE)
        shape = (table.num_rows, table.width)
        if shape != (self.config.num_items, self.config.hidden_size):
            raise ValueError(f"model.safetensors has an item table {shape}, unlike config.json")
        self.item_rows = ItemRows(
            self.hstu,
            table,
            self._item_cache,
            dtype=self.compute.dtype,
            device=device,
        )
        if self.compute.linear_dtype == FP8:
            for layer in self._paged:
                layer.narrow()
        # Of the layers as they will run, with narrow weights where they have them.
        if self.compute.page_dtype == FP8:
            with self.item_rows.pass_over(None):
                scales_of_layers = page_scales(self.hstu)
            for layer, scales in scales_of_layers.items():
                self._paged[layer].scales = scales
        return loaded
