"""The tensor contract for a catalogue whose ids are strings."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from kserve import InferInput, InferRequest

from genrec_model.errors import RequestError
from genrec_model.features.vocabulary import Vocabulary
from genrec_serving.requests import Answer, RankQuery, RecommendQuery, ScoredItem
from genrec_serving.surfaces.v2_tensors import TensorCodec


@pytest.fixture(scope="module")
def codec() -> TensorCodec:
    items = pl.DataFrame({"item_id": ["a", "b"], "title": ["A", "B"], "train_count": [2, 1]})
    return TensorCodec(Vocabulary(items, ("view", "buy")), ("engagement",))


def request(parameters: dict[str, Any] | None = None, **tensors: Any) -> InferRequest:
    inputs = []
    for name, values in tensors.items():
        array = np.array(values)
        if array.dtype != np.int64:
            array = array.astype(np.object_)
        datatype = "INT64" if array.dtype == np.int64 else "BYTES"
        made = InferInput(name, list(array.shape), datatype)
        made.set_data_from_numpy(array, binary_data=True)
        inputs.append(made)
    return InferRequest("m", inputs, parameters=parameters)


def test_queries(codec) -> None:
    first, second = codec.queries(
        request(
            {"k": 3, "now": 9},
            history_items=[["a", "b"], ["b", ""]],
            history_actions=[[0, 1], [1, 7]],
            history_timestamps=[[1, 2], [3, 0]],
            history_lengths=[2, 1],
        )
    )
    assert isinstance(first, RecommendQuery)
    assert (first.k, first.now) == (3, 9)
    assert first.history is not None
    assert first.history.item_ids == ["a", "b"]
    assert first.history.actions == ["view", "buy"]
    assert second.history is not None
    assert second.history.item_ids == ["b"]
    assert second.history.timestamps == [3]


def test_candidates(codec) -> None:
    (query,) = codec.queries(request({"order_by": "score"}, user_id=["u"], candidates=[["b", "a"]]))
    assert isinstance(query, RankQuery)
    assert (query.user_id, query.candidates, query.order_by) == ("u", ["b", "a"], "score")


def test_integers_are_no_ids_of_this_catalogue(codec) -> None:
    # They reach the recommender, which names the item that it does not know.
    (query,) = codec.queries(request(user_id=["u"], candidates=[[1, 2]]))
    assert query.candidates == [1, 2]


def test_a_name_given_twice(codec) -> None:
    doubled = request(user_id=["u"])
    doubled.inputs *= 2
    with pytest.raises(RequestError, match="user_id: is given twice"):
        codec.queries(doubled)


@pytest.mark.parametrize("users", [0, 257])
def test_the_batch_is_bounded(codec, users) -> None:
    tensor = InferInput("user_id", [users], "BYTES", data=["u"] * users)
    with pytest.raises(RequestError, match="1 to 256"):
        codec.queries(InferRequest("m", [tensor]))


@pytest.mark.parametrize("binary", [False, True])
def test_outputs_are_padded(codec, binary) -> None:
    def answer(*items: str) -> Answer:
        return Answer(
            items=[
                ScoredItem(item_id=i, title=i, score=1.5, tasks={"engagement": 0.5}) for i in items
            ],
            model_name="m",
            model_version="1",
            strategy="torch",
            history_events=0,
            cached_events=0,
        )

    outputs = codec.outputs([answer("b", "a"), answer("a"), answer()], 2, binary=binary)
    found = {output.name: output.as_numpy() for output in outputs}
    texts = [i.decode() if isinstance(i, bytes) else i for i in found["items"].flatten()]
    assert texts == ["b", "a", "a", "", "", ""]
    assert found["scores"].tolist() == [[1.5, 1.5], [1.5, 0], [0, 0]]
    assert found["engagement"].tolist() == [[0.5, 0.5], [0.5, 0], [0, 0]]
    assert found["counts"].tolist() == [2, 1, 0]
    assert [o["name"] for o in codec.output_types] == list(found)
