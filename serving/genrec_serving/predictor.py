"""The recommender as a KServe model: protocols V1 and V2, in JSON, binary and gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import orjson
from kserve import InferRequest, InferResponse, Model

from genrec_model.errors import EngineRestarting, RequestError
from genrec_serving.recommender import Recommender
from genrec_serving.requests import Answer, RankQuery, RecommendQuery
from genrec_serving.surfaces.admission import Admission
from genrec_serving.surfaces.api import make_query
from genrec_serving.surfaces.front import Front
from genrec_serving.surfaces.schemas import MAX_BATCH, answer_to_dict
from genrec_serving.surfaces.v2_tensors import TensorCodec, at, tensor_error
from genrec_serving.telemetry.metrics import RequestMetrics, Surface


class RecommenderModel(Model):
    """A KServe model that asks a `Recommender`.

    V1: ``{"instances": [...]}``, each instance a body of ``/v1/recommend`` or, with `candidates`,
    of ``/v1/rank``; each prediction is that route's answer. V2: see `v2_tensors`.

    Args:
        name: in the URLs.
        load: makes the recommender; takes long, and is called in a thread.
        metrics: where requests are counted.
        admission: places in front of the engine.
    """

    def __init__(
        self,
        name: str,
        *,
        load: Callable[[], Recommender],
        metrics: RequestMetrics,
        admission: Admission,
    ) -> None:
        super().__init__(name)
        self.engine = True
        self._load_recommender = load
        self.front = Front(lambda: self.recommender, metrics=metrics, admission=admission)
        self._loaded: tuple[Recommender, TensorCodec] | None = None

    @property
    def recommender(self) -> Recommender:
        """The recommender.

        Raises:
            EngineRestarting: it is not loaded yet.
        """
        return self._parts[0]

    @property
    def _parts(self) -> tuple[Recommender, TensorCodec]:
        if self._loaded is None:
            raise EngineRestarting(f"model {self.name} is still loading", retry_after_s=2.0)
        return self._loaded

    async def start_engine(self) -> None:
        """Load the model and answer one real request; ready after that.

        Raises:
            GenrecError: the model cannot be loaded, or its engine cannot answer.
        """
        recommender = await asyncio.to_thread(self._load_recommender)
        await recommender.warm_up()
        artifact = recommender.artifact
        codec = TensorCodec(artifact.vocabulary, artifact.config.tasks)
        self._loaded = recommender, codec
        self.ready = True

    def start(self) -> None:
        """Nothing: `start_engine` does it all."""

    def load(self) -> bool:
        """KServe calls this for a model that is not ready; it loads only once, at the start."""
        return bool(self.ready)

    async def close(self) -> None:
        """Close all that the recommender holds; the model is not ready any more."""
        self.ready = False
        if self._loaded is not None:
            await self._loaded[0].close()

    async def healthy(self) -> bool:
        """Whether requests can be answered."""
        return self._loaded is not None and self._loaded[0].healthy

    def get_input_types(self) -> list[dict[str, Any]]:
        """Input tensors of V2."""
        return self._parts[1].input_types

    def get_output_types(self) -> list[dict[str, Any]]:
        """Output tensors of V2."""
        return self._parts[1].output_types

    async def predict(
        self,
        payload: Any,
        headers: Mapping[str, str] | None = None,  # noqa: ARG002  # KServe's signature
        response_headers: dict[str, str] | None = None,  # noqa: ARG002
    ) -> dict[str, Any] | InferResponse:
        """Answer a request of either protocol.

        Raises:
            RequestError: something in it is wrong.
            EngineError: the engine is not available, or failed.
        """
        if isinstance(payload, InferRequest):
            return await self._predict_v2(payload)
        return {"predictions": await self._predict_v1(payload)}

    async def explain(self, payload: Any, headers: Any = None) -> Any:  # noqa: ARG002
        """Not offered.

        Raises:
            RequestError: always.
        """
        raise RequestError("this model has no explainer", field="explain", status=404)

    async def _predict_v1(self, payload: Any) -> list[dict[str, Any]]:
        if isinstance(payload, bytes):  # of a content type that KServe does not know
            try:
                payload = orjson.loads(payload)
            except orjson.JSONDecodeError as error:
                raise RequestError(str(error), field="body", status=400) from error
        if not isinstance(payload, dict) or not isinstance(payload.get("instances"), list):
            raise RequestError("give a list of instances", field="instances", status=400)
        instances = payload["instances"]
        if not 1 <= len(instances) <= MAX_BATCH:
            raise RequestError(
                f"{len(instances)} instances; 1 to {MAX_BATCH} are allowed", field="instances"
            )
        makers = [partial(make_query, body) for body in instances]
        answers = await self.front.ask_all(makers, "v1")
        return [answer_to_dict(answer) for answer in _checked(answers, _instance_error)]

    async def _predict_v2(self, request: InferRequest) -> InferResponse:
        surface: Surface = "grpc" if request.from_grpc else "v2"
        codec = self._parts[1]
        with self.front.metrics.request(surface):  # each user's is counted by itself below
            queries: Sequence[RecommendQuery | RankQuery] = codec.queries(request)
        makers = [partial(_same, query) for query in queries]
        answers = _checked(await self.front.ask_all(makers, surface), tensor_error)
        first = queries[0]
        width = first.k if isinstance(first, RecommendQuery) else len(first.candidates)
        outputs = codec.outputs(answers, width, binary=request.from_grpc)
        if request.from_grpc and request.request_outputs:
            # Over REST, KServe makes the selection itself.
            wanted = {output.name for output in request.request_outputs}
            outputs = [output for output in outputs if output.name in wanted]
        return InferResponse(
            request.id or str(uuid4()),
            self.name,
            outputs,
            model_version=self.recommender.version,
            parameters={
                "strategy": answers[0].strategy,
                "cached_events": sum(answer.cached_events for answer in answers),
            },
            use_binary_outputs=request.use_binary_outputs,
            requested_outputs=request.request_outputs,
        )


def _same(query: RecommendQuery | RankQuery) -> RecommendQuery | RankQuery:
    return query


def _checked(
    answers: Sequence[Answer | RequestError], place: Callable[[RequestError, int], RequestError]
) -> list[Answer]:
    """All answers, or the first error in the order of the request, at its place in it."""
    found = []
    for i, answer in enumerate(answers):
        if isinstance(answer, RequestError):
            raise place(answer, i) from answer
        found.append(answer)
    return found


def _instance_error(error: RequestError, instance: int) -> RequestError:
    field = f"instances[{instance}].{error.field}"
    return at(error, field.removesuffix(".body"), status=error.status)
