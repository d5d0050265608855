"""Every route of the OpenAPI page, with what its schema allows and with what it does not."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import given
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from .conftest import FUZZ, STUCK_S, assert_no_fault

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def api(server) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.base_url}/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_route_fails(api, mode) -> None:
    routes = 0
    for result in api.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @FUZZ
        def check(case: schemathesis.Case) -> None:
            response = case.call(timeout=STUCK_S)
            assert_no_fault(response.status_code, response.text)

        try:
            check()
        except Unsatisfiable:
            # A route without parameters has nothing that could be wrong.
            assert mode is GenerationMode.NEGATIVE
            continue
        routes += 1
    assert routes >= 9
