"""A pool too small for the requests of the moment: vLLM takes pages away from the last ones."""

from functools import partial

import numpy as np
import pytest
import torch

from genrec_serving.engines.interface import ScoringEngine
from genrec_serving.engines.vllm_engine import build_engine
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.vllm_plugin.pooling_request import rank_kwargs
from genrec_serving.vllm_plugin.prompt import pack

pytestmark = pytest.mark.slow

CANDIDATES = np.array([5, 9, 20])


@pytest.mark.parametrize(
    ("passes", "overlapped"), [("plain", False), ("padded", False), ("padded", True)]
)
def test_preempted_requests_are_answered_right(
    vllm_engine: ScoringEngine,
    served_artifact,
    truth,
    passes,
    overlapped,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Asking for the other engine starts vLLM as a server does, and closes it when all are done.
    assert vllm_engine.healthy
    from vllm.engine import arg_utils

    # Five pages of 16 rows; all requests advance by a page a step, and each needs three in the end.
    small = partial(
        arg_utils.EngineArgs, num_gpu_blocks_override=6, long_prefill_token_threshold=16
    )
    monkeypatch.setattr(arg_utils, "EngineArgs", small)
    if overlapped:
        request.getfixturevalue("overlapped_steps")
    engine = build_engine(
        served_artifact, VllmOptions(max_requests=8, passes=passes), salt="preemption"
    )
    scheduler = engine._core.engine_core.scheduler
    preempted = []
    original = scheduler._preempt_request

    def preempt(request, *args, **kwargs):
        preempted.append(request.request_id)
        return original(request, *args, **kwargs)

    monkeypatch.setattr(scheduler, "_preempt_request", preempt)
    users = [truth.rows(47, seed=300 + u) for u in range(8)]
    for u, rows in enumerate(users):
        kwargs = rank_kwargs(candidates=CANDIDATES, now=truth.now)
        engine.add(str(u), pack(rows), kwargs)
    found = {}
    with torch.inference_mode():
        for _ in range(200):
            found |= {int(answer.request_id): answer.columns for answer in engine.step()}
            if len(found) == len(users):
                break
    assert preempted
    for u, rows in enumerate(users):
        expected = truth.rank(rows, CANDIDATES)
        np.testing.assert_allclose(found[u][:, 1], expected.scores, atol=1e-4)
        np.testing.assert_allclose(found[u][:, 2:], expected.task_logits, atol=1e-4)
