"""Requests that the OpenAPI document allows, and some that it does not: no error of the server."""

import os
from collections import Counter
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings

from tests.conftest import TOY_SPEC
from tests.server.conftest import TOKEN, make
from trmml.search.build import build_index

schemathesis = pytest.importorskip("schemathesis")
# `TRMML_FUZZ=480` makes some ten thousand requests in all.
CASES = int(os.environ.get("TRMML_FUZZ", "12"))


HEADERS = {"Authorization": f"Bearer {TOKEN}", "X-Trmml": "1", "Host": "127.0.0.1"}


def test_no_request_is_an_error_of_the_server(finished_run, toy_images, tmp_path) -> None:
    index = tmp_path / "index"
    build_index(finished_run, toy_images.test, index, encoder=TOY_SPEC)
    served = make(finished_run, toy_images, tmp_path, index=index, label_studio=True)
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", served.app, headers=HEADERS)
    asked: Counter[str] = Counter()
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation, mode in product(operations, schemathesis.GenerationMode):
        if mode.is_negative and not (operation.body or operation.query):
            continue

        @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case) -> None:
            answer = case.call(headers=HEADERS)
            asked[f"{case.method} {case.path} {answer.status_code}"] += 1
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == ["application/problem+json"]

        ask()
    print(*sorted(asked.items()), f"{asked.total()} requests", sep="\n")
    assert asked.total() >= CASES
