"""The artifact's ``config.json`` as vLLM wants to see it."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from genrec_model.hstu import HSTUConfig
from genrec_model.hstu.config import MODEL_TYPE
from genrec_serving.vllm_plugin.prompt import ROW_WIDTH


class GenrecHSTUConfig(PretrainedConfig):
    """Configuration of the model type ``genrec_hstu``.

    The file holds what `HSTUConfig` knows; what vLLM asks for beyond that is derived here, so
    that the artifact need not know its server.
    """

    model_type = MODEL_TYPE

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if not values:
            return  # Transformers makes an empty one to compare with
        config = HSTUConfig.from_dict({"model_type": MODEL_TYPE, **values})
        self.hidden_size = config.hidden_size
        self.head_dim = config.head_dim
        self.num_hidden_layers = config.num_layers
        self.num_attention_heads = config.num_heads
        self.num_key_value_heads = config.num_heads
        self.vocab_size = config.num_items
        # One more than a prompt ever has: vLLM may want room for a token that it generates.
        self.max_position_embeddings = config.max_rows + 1
        # The name under which vLLM looks for the width of a `prompt_embeds` row.
        self.projection_dim = ROW_WIDTH

    @property
    def hstu(self) -> HSTUConfig:
        """Shape of the model, as the rest of the project knows it."""
        return HSTUConfig.from_dict(self.to_dict())
