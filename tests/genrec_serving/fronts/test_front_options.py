"""What several processes that take requests refuse, and what they pass on."""

from pathlib import Path

import pytest

from genrec_model.errors import ConfigError
from genrec_serving.fronts.control import options_from_dict, options_to_dict
from genrec_serving.fronts.supervisor import check_options
from genrec_serving.server_options import ServerOptions
from genrec_serving.server_parts import admission_limits

SHARED = "sqlite:users.db"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"user_store": SHARED, "strategy": "torch"}, "--strategy auto or vllm, not torch"),
        ({"user_store": SHARED, "engine_processes": 0}, "--engine-processes 1 or more"),
        ({"user_store": SHARED, "second_engine": "torch"}, "--second-engine works with"),
        ({"user_store": SHARED, "open_repository": True}, "--open-repository works with"),
        ({"user_store": SHARED, "max_wait_s": 0.0}, "makes no sense"),
        ({"user_store": SHARED, "token_file": Path("/nowhere/token")}, "token"),
    ],
)
def test_what_is_refused(options, says) -> None:
    with pytest.raises(ConfigError, match=says):
        check_options(ServerOptions(artifact="x", http_processes=2, **options))


@pytest.mark.parametrize("store", [None, "memory", SHARED, "redis://localhost"])
def test_what_is_taken(store) -> None:
    check_options(ServerOptions(artifact="x", http_processes=2, user_store=store))


def test_options_travel_whole() -> None:
    options = ServerOptions(
        artifact="x", http_processes=3, histories=Path("a/b.parquet"), cache_state=Path("c"),
        engine_processes=4, max_wait_s=0.25, dtype="bfloat16",
    )  # fmt: skip
    assert options_from_dict(options_to_dict(options)) == options


def test_each_has_its_part_of_the_places() -> None:
    options = ServerOptions(artifact="x", http_processes=3, max_running=64, max_waiting=512)
    limits = admission_limits(options)
    assert (limits.running, limits.waiting, limits.deadline_s) == (22, 171, 10.0)
    assert admission_limits(ServerOptions(artifact="x")).running == 64
