"""HSTU as an out-of-tree model of vLLM: paged history, candidates beside the prompt."""

from __future__ import annotations

from genrec_model.hstu.config import ARCHITECTURE, MODEL_TYPE


def register(*, load_class: bool = False) -> None:
    """Tell vLLM and Transformers about the model.

    vLLM calls this, by way of the entry point ``vllm.general_plugins``, in every process of an
    engine before it looks a model up; calling it again changes nothing.

    Args:
        load_class: import the model's class now. By default vLLM gets its name, imports it where
            the model runs, and asks a process of its own what kind of model it is, which costs
            several seconds where that answer is not cached. An engine that runs in this very
            process saves them.
    """
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from genrec_serving.vllm_plugin.config import GenrecHSTUConfig

    AutoConfig.register(MODEL_TYPE, GenrecHSTUConfig, exist_ok=True)
    if ARCHITECTURE in ModelRegistry.get_supported_archs():
        return
    if load_class:
        from genrec_serving.vllm_plugin.model import GenrecHSTU

        ModelRegistry.register_model(ARCHITECTURE, GenrecHSTU)
    else:
        ModelRegistry.register_model(ARCHITECTURE, "genrec_serving.vllm_plugin.model:GenrecHSTU")
