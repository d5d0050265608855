"""Environment variables that vLLM reads when it is imported, and CUDA when it is first asked.

They have no other door for these settings, so this is the one place of the project that writes to
the environment.
"""

from __future__ import annotations

import os

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def prepare_environment(*, model_runner: str = "v1", log_level: str = "ERROR") -> None:
    """Set what an engine in this process needs; call it before the first import of vLLM.

    Args:
        model_runner: "v1", or "v2", vLLM's newer one.
        log_level: of vLLM's own log.
    """
    os.environ.update(
        # The engine runs in a thread of this process, see `vllm_engine`.
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        # Left to itself it would pin this process, and so the web server, to some cores.
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        # Its rendezvous with itself needs no network.
        VLLM_HOST_IP="127.0.0.1",
        # Not left to vLLM, whose choice depends on its version and on what else is installed.
        VLLM_USE_V2_MODEL_RUNNER=str(int(model_runner == "v2")),
        VLLM_LOGGING_LEVEL=log_level,
        VLLM_NO_USAGE_STATS="1",
        DO_NOT_TRACK="1",
    )


def use_gpu(number: int) -> None:
    """Let this process see one GPU alone; call it before anything asks CUDA.

    Args:
        number: among those that the process sees now.
    """
    seen = os.environ.get(_VISIBLE)
    os.environ[_VISIBLE] = seen.split(",")[number].strip() if seen else str(number)
