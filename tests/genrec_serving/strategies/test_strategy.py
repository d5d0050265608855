import pytest

from genrec_model.errors import ConfigError, EngineError, EngineUnavailable
from genrec_serving.engines.interface import ScoringEngine
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.strategies import strategy
from genrec_serving.strategies.strategy import Strategies, start_strategies


class Engine(ScoringEngine):
    def __init__(self, name: str) -> None:
        self.name = name

    async def recommend(self, call):
        raise NotImplementedError

    async def rank(self, call):
        raise NotImplementedError


def start(monkeypatch, artifact, default="auto", **failures: EngineError) -> Strategies:
    for name in ("vllm", "onnx", "torch"):

        def make(*_, name=name):
            if name in failures:
                raise failures[name]
            return Engine("onnxruntime" if name == "onnx" else name)

        monkeypatch.setattr(strategy, f"_{name}", make)
    return start_strategies(artifact, version="1", default=default, options=VllmOptions())


async def test_auto_prefers_vllm(monkeypatch, served_artifact) -> None:
    strategies = start(monkeypatch, served_artifact)
    choice = await strategies.choose(None)
    assert (choice.engine.name, choice.fallback) == ("vllm", None)


async def test_auto_falls_back_and_says_so(monkeypatch, served_artifact) -> None:
    strategies = start(
        monkeypatch,
        served_artifact,
        vllm=EngineUnavailable("vllm: none"),
        onnx=EngineUnavailable("onnx: none"),
    )
    choice = await strategies.choose("auto")
    assert (choice.engine.name, choice.fallback) == ("torch", "vllm: none; onnx: none")


async def test_an_engine_is_started_when_first_forced(monkeypatch, served_artifact) -> None:
    strategies = start(monkeypatch, served_artifact)
    assert strategies.started == ["vllm"]
    first = await strategies.choose("torch")
    assert (await strategies.choose("torch")).engine is first.engine
    assert (first.engine.name, first.fallback) == ("torch", None)
    assert strategies.started == ["vllm", "torch"]


async def test_a_forced_engine_that_is_unavailable_is_no_fallback(monkeypatch, served_artifact):
    strategies = start(monkeypatch, served_artifact, onnx=EngineUnavailable("onnx: none"))
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="onnx: none"):
            await strategies.choose("onnxruntime")
    with pytest.raises(EngineUnavailable, match="does not run TensorRT"):
        await strategies.choose("tensorrt")
    assert set(strategies.unavailable) == {"onnxruntime", "tensorrt"}


async def test_vllm_is_not_started_later(monkeypatch, served_artifact) -> None:
    strategies = start(monkeypatch, served_artifact, default="torch")
    with pytest.raises(EngineUnavailable, match="not started"):
        await strategies.choose("vllm")
    assert (await strategies.choose(None)).engine.name == "torch"


async def test_auto_of_a_server_with_a_forced_default(monkeypatch, served_artifact) -> None:
    strategies = start(monkeypatch, served_artifact, default="torch")
    choice = await strategies.choose("auto")
    assert choice.engine.name == "torch"
    assert choice.fallback is not None
    assert "vllm: this server was not started with it" in choice.fallback


def test_a_forced_default_that_fails_is_an_error(monkeypatch, served_artifact) -> None:
    with pytest.raises(EngineError, match="broken"):
        start(monkeypatch, served_artifact, default="vllm", vllm=EngineError("vllm: broken"))
    with pytest.raises(EngineUnavailable, match="does not run TensorRT"):
        start(monkeypatch, served_artifact, default="tensorrt")


def test_no_engine_at_all_is_an_error(monkeypatch, served_artifact) -> None:
    failures = {name: EngineError(f"{name} broken") for name in ("vllm", "onnx", "torch")}
    with pytest.raises(EngineError, match="torch broken"):
        start(monkeypatch, served_artifact, **failures)


async def test_a_second_engine_is_started_with_vllm_only(monkeypatch, served_artifact) -> None:
    def with_second(default: str, second: str, **failures: EngineError) -> Strategies:
        start(monkeypatch, served_artifact, **failures)
        return start_strategies(
            served_artifact, version="1", default=default, options=VllmOptions(), second=second
        )

    strategies = with_second("auto", "onnxruntime")
    assert strategies.started == ["vllm", "onnxruntime"]
    assert strategies.describe()["auto"]["second"] == "onnxruntime"
    assert (await strategies.choose("onnxruntime")).engine.name == "onnxruntime"
    alone = with_second("auto", "onnxruntime", vllm=EngineUnavailable("vllm: none"))
    assert (alone.started, alone.describe()["auto"]) == (["onnxruntime"], None)
    for default, second in (("auto", "vllm"), ("auto", "magic"), ("torch", "onnxruntime")):
        with pytest.raises(ConfigError, match="with strategy auto"):
            with_second(default, second)
    with pytest.raises(EngineUnavailable):
        with_second("auto", "onnxruntime", onnx=EngineUnavailable("onnx: none"))


async def test_statistics_of_engines_that_have_some(monkeypatch, served_artifact) -> None:
    strategies = start(monkeypatch, served_artifact)
    first = (await strategies.choose("vllm")).engine
    second = (await strategies.choose("torch")).engine
    assert await strategies.statistics() == {}

    async def fine():
        return {"kv_cache_usage": 0.5}

    async def broken():
        raise EngineError("gone")

    monkeypatch.setattr(first, "statistics", fine)
    monkeypatch.setattr(second, "statistics", broken)
    assert await strategies.statistics() == {"vllm": {"kv_cache_usage": 0.5}}
