"""How answers from two kinds of pages are compared."""

from __future__ import annotations

import numpy as np
import pytest

from genrec_model.features.sequences import UserSequences
from genrec_serving.bench.page_quality import Answers, questions
from genrec_serving.engines.interface import Scored


def scored(items: list[int], scores: list[float]) -> Scored:
    return Scored(
        items=np.array(items),
        scores=np.array(scores, np.float32),
        task_logits=np.zeros((len(items), 0), np.float32),
    )


def answers(*found: Scored) -> Answers:
    return Answers(scored=list(found), seconds=[0.1] * len(found), wall_s=0.2)


def test_hits_and_differences() -> None:
    plain = answers(scored([5, 6], [1.0, 0.0]), scored([7, 8], [1.0, 0.0]))
    other = answers(scored([6, 5], [0.1, 0.9]), scored([7, 9], [1.2, 0.0]))
    wanted = np.array([6, 8])
    assert (plain.hit_rate(wanted), other.hit_rate(wanted)) == (1.0, 0.5)
    assert plain.spread_from(plain) == 0
    # Differences of .1, .1 and .2 where the deviation is .5.
    assert other.spread_from(plain) == pytest.approx(4 / 15)


def test_a_question_is_of_the_moment_before(served_artifact) -> None:
    sequences = UserSequences(
        items=np.array([3, 4, 5, 6, 7]),
        actions=np.full(5, 2),
        timestamps=np.array([10, 20, 30, 10, 40]),
        labels=np.zeros((5, 2), np.int8),
        known_at=np.zeros((5, 2), np.int64),
        users=[1, 2],
        offsets=np.array([0, 3, 5]),
    )
    first, second = questions(served_artifact, sequences, np.array([2, 4]))
    assert first.rows.items[1:].tolist() == [3, 4]
    assert (first.now, first.exclude.tolist()) == (30, [3, 4])
    assert second.rows.items[1:].tolist() == [6]
    assert (second.now, second.k) == (40, 10)
