"""How the plugin computes: what vLLM's own options have no word for.

vLLM itself runs in float32 whatever the model computes in: its tensors carry prompt rows, which
are integers in disguise (see `prompt`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch

from genrec_kernels.fp8_pages import FP8, LACKS_FP8, knows_fp8
from genrec_model.errors import ConfigError
from genrec_serving.vllm_plugin.item_cache_options import ItemCacheOptions
from genrec_serving.vllm_plugin.passes import Mode

#: Names of the data types of weights, hidden rows and pages.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_KEY = "genrec"


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """How passes run.

    Args:
        dtype: of weights, hidden rows, keys and values.
        passes: see `Passes`.
        page_dtype: of keys and values in pages; as `dtype`, or float8 (see
            `genrec_kernels.fp8_pages`).
        linear_dtype: of what the layers' linear layers multiply; as `dtype`, or float8 (see
            `HSTULayer.narrow`).
    """

    dtype: torch.dtype
    passes: Mode
    page_dtype: torch.dtype
    linear_dtype: torch.dtype

    def check_device(self, device: torch.device) -> None:
        """Refuse a GPU that does not know a data type.

        Raises:
            ConfigError: float8 is asked for, and it is older than Ada (compute capability 8.9).
        """
        dtypes = {"--fp8-pages": self.page_dtype, "--fp8-linear": self.linear_dtype}
        asked = [option for option, dtype in dtypes.items() if dtype == FP8]
        if asked and not knows_fp8(device):
            raise ConfigError(
                f"{' and '.join(asked)}: {LACKS_FP8}, and {torch.cuda.get_device_name(device)} "
                "is older"
            )


def additional_config(
    *,
    dtype: str,
    passes: str,
    item_cache: ItemCacheOptions | None = None,
    fp8_pages: bool = False,
    fp8_linear: bool = False,
) -> dict[str, Any]:
    """What to give vLLM as ``additional_config``.

    Raises:
        ValueError: no such data type or mode.
    """
    if dtype not in DTYPES:
        raise ValueError(f"no dtype {dtype!r}: use one of {', '.join(DTYPES)}")
    if passes not in get_args(Mode):
        raise ValueError(f"no mode {passes!r} of passes: use one of {', '.join(get_args(Mode))}")
    cache = {} if item_cache is None else item_cache.as_config()
    narrow = {"fp8_pages": fp8_pages, "fp8_linear": fp8_linear}
    return {_KEY: {"dtype": dtype, "passes": passes, **narrow, **cache}}


def compute_options(vllm_config: Any) -> ComputeOptions:
    """The reverse; plain float32 where vLLM was started without."""
    given = vllm_config.additional_config.get(_KEY, {})
    dtype = DTYPES[given.get("dtype", "float32")]
    return ComputeOptions(
        dtype=dtype,
        passes=given.get("passes", "plain"),
        page_dtype=FP8 if given.get("fp8_pages") else dtype,
        linear_dtype=FP8 if given.get("fp8_linear") else dtype,
    )
