"""HSTU attention over vLLM's KV pages.

vLLM owns the pages: it allocates, shares, evicts and restores them. A layer of ours tells it how
many bytes a row needs (`get_kv_cache_spec`) and gets the pages back (`bind_kv_cache`); each step
brings one `PageMetadata` that says which pages belong to which request.

Letters in shapes: R new rows of all requests, B requests, P pages, S rows a page, M pages of the
longest request, H heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionImpl,
    AttentionMetadataBuilder,
    MultipleOf,
)
from vllm.v1.kv_cache_interface import FullAttentionSpec

from genrec_kernels.fp8_pages import FP8
from genrec_kernels.page_write import page_write
from genrec_kernels.paged_hstu_attention import paged_hstu_attention, takes_queries
from genrec_model.hstu import HSTUConfig
from genrec_model.hstu.layer import AttendedParts, HSTULayer
from genrec_serving.vllm_plugin.fp8_pages import PageScales
from genrec_serving.vllm_plugin.passes import PassInputs


@dataclass(frozen=True, kw_only=True)
class PageMetadata:
    """Where the rows of a step go, and where those before them are.

    Args:
        num_rows: R; tensors of the step may be padded beyond it.
        row_offsets: int32 [B + 1], first new row of each request.
        page_table: int32 [B, M], pages of each request.
        slots: int64 [R or more], ``page · S + row in page`` of each new row.
        max_new_rows: most new rows of one request.
        max_keys: most rows of one request, new ones and those before them.
    """

    num_rows: int
    row_offsets: Tensor
    page_table: Tensor
    slots: Tensor
    max_new_rows: int
    max_keys: int


class PageMetadataBuilder(AttentionMetadataBuilder):
    """Makes a `PageMetadata` of what vLLM knows about a step."""

    def __init__(
        self, kv_cache_spec: Any, layer_names: list[str], vllm_config: VllmConfig, device: Any
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)

    def build(
        self,
        common_prefix_len: int,  # noqa: ARG002  # vLLM's signature
        common_attn_metadata: Any,
        fast_build: bool = False,  # noqa: ARG002
    ) -> PageMetadata:
        """Called by vLLM once a step."""
        common = common_attn_metadata
        return PageMetadata(
            num_rows=common.num_actual_tokens,
            row_offsets=common.query_start_loc[: common.num_reqs + 1],
            page_table=common.block_table_tensor[: common.num_reqs],
            slots=common.slot_mapping[: common.num_actual_tokens],
            max_new_rows=common.max_query_len,
            max_keys=common.max_seq_len,
        )


class PagedBackend(AttentionBackend):
    """What vLLM has to know about the layers of this module."""

    supported_dtypes = [torch.float32, torch.bfloat16, torch.float16]  # noqa: RUF012
    forward_includes_kv_cache_update = True

    @staticmethod
    def get_name() -> str:
        """Must be a member of vLLM's enumeration."""
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[AttentionImpl]:
        """Asked for by vLLM's own `Attention` layer only, which this model does not have."""
        raise NotImplementedError("the layers of this backend carry their own attention")

    @staticmethod
    def get_builder_cls() -> type[PageMetadataBuilder]:
        """The class that makes each step's metadata."""
        return PageMetadataBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(
        kv_cache_spec: Any = None,  # noqa: ARG004  # 0.32 gives it, 0.25 does not
    ) -> list[int | MultipleOf]:
        """Rows that a page may have."""
        return [MultipleOf(16)]

    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        """Empty: any."""
        return []

    @staticmethod
    def get_kv_cache_shape(
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_size: int,
        cache_dtype_str: str = "auto",  # noqa: ARG004
    ) -> tuple[int, ...]:
        """[P, H, S, 2·D], the shape that vLLM 0.32 fixes and 0.25 asks for."""
        return (num_blocks, num_kv_heads, block_size, 2 * head_size)


class PagedLayer(nn.Module, AttentionLayerBase):
    """Something that has pages in vLLM's cache.

    Args:
        prefix: name of the layer, which must hold exactly one integer.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__()
        layers = get_current_vllm_config().compilation_config.static_forward_context
        if prefix in layers:
            raise ValueError(f"layer {prefix} exists twice")
        layers[prefix] = self
        self.layer_name = prefix
        self.kv_sharing_target_layer_name = None
        self.kv_cache: Any = torch.tensor([])

    def bind_kv_cache(self, kv_cache: Any) -> None:
        """Called by vLLM when the pages are allocated."""
        self.kv_cache = kv_cache

    @property
    def pages(self) -> Tensor:
        """[P, H, S, 2·D], as `get_kv_cache_shape` has it; some versions wrap it in a list.

        Of eight bits, rows of a head lie together. Some versions lay heads beside each other, but
        they only move whole pages, so what is where in one is up to who reads and writes it.
        """
        kv_cache = self.kv_cache
        pages: Tensor = kv_cache[0] if isinstance(kv_cache, (list, tuple)) else kv_cache
        if pages.dtype == FP8 and pages.stride(1) < pages.stride(2):
            return pages.transpose(1, 2).view(pages.shape)
        return pages

    def get_attn_backend(self) -> type[PagedBackend]:
        """The backend of this layer, whatever the platform prefers."""
        return PagedBackend


class PagedHSTUAttention(PagedLayer):
    """Attention of one HSTU layer; it has pages, and no weights.

    Args:
        config: of the model.
        dtype: of the pages.
        prefix: see `PagedLayer`.
    """

    def __init__(self, config: HSTUConfig, dtype: torch.dtype, prefix: str) -> None:
        super().__init__(prefix)
        self.config = config
        self.dtype = dtype
        #: Of float8 pages; made when the weights are loaded.
        self.scales: PageScales | None = None

    def get_kv_cache_spec(self, vllm_config: VllmConfig) -> FullAttentionSpec:
        """Bytes that a row needs."""
        return FullAttentionSpec(
            block_size=vllm_config.cache_config.block_size,
            num_kv_heads=self.config.num_heads,
            head_size=self.config.head_dim,
            dtype=self.dtype,
        )

    def write(
        self,
        layer: HSTULayer,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rows: PassInputs,
        *,
        timestamp_pages: Tensor | None,
    ) -> Tensor | None:
        """Put keys and values [R, H, D] into the pages, before anything of the step reads them.

        Args:
            layer: whose attention follows.
            q, k, v: of the layer.
            rows: with slots.
            timestamp_pages: int64 [P, S], where the rows' times go; None if they are there.

        Returns:
            `q` in float8, where the attention takes it so; else None.
        """
        assert rows.slots is not None
        qk_scale = None if self.scales is None else self.scales.qk
        narrows = takes_queries(
            q,
            kv_pages=self.pages,
            page_table=rows.page_table,
            row_offsets=rows.row_offsets,
            has_bias=layer.bias is not None,
            qk_scale=qk_scale,
            max_new_rows=rows.max_new_rows,
            max_keys=rows.max_keys,
        )
        return page_write(
            k,
            v,
            rows.slots,
            kv_pages=self.pages,
            timestamps=None if timestamp_pages is None else rows.timestamps,
            timestamp_pages=timestamp_pages,
            kv_scales=None if self.scales is None else self.scales.kv,
            q=q if narrows else None,
            qk_scale=qk_scale if narrows else None,
        )

    def attend(
        self,
        layer: HSTULayer,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rows: PassInputs,
        timestamp_pages: Tensor,
        queries: Tensor | None,
    ) -> AttendedParts:
        """[R, H, D] each, to parts of [R, H, D]; writes nothing.

        Args:
            layer: whose attention it is.
            q, k, v: of the layer.
            rows: of the pass.
            timestamp_pages: int64 [P, S].
            queries: what `write` made of `q`; None for rows that were not written.
        """
        parts = paged_hstu_attention(
            q,
            k,
            v,
            kv_pages=self.pages,
            timestamp_pages=timestamp_pages,
            page_table=rows.page_table,
            row_offsets=rows.row_offsets,
            key_limits=rows.limits,
            timestamps=rows.timestamps,
            alpha=self.config.alpha,
            norm_length=self.config.norm_length,
            bias=layer.bias,
            kv_scales=None if self.scales is None else self.scales.kv,
            qk_scale=None if self.scales is None else self.scales.qk,
            queries=queries,
            max_new_rows=rows.max_new_rows,
            max_keys=rows.max_keys,
            same_bias=rows.slots is None,  # candidates
            in_parts=True,
        )
        return AttendedParts(parts)
