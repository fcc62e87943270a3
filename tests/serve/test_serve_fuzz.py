"""Requests drawn from the OpenAPI document: whatever comes, no fault of the service, and every answer is as documented.

Schemathesis draws them; the seed is fixed, so that a rerun repeats them.
"""

import asyncio
from collections.abc import Iterator

import httpx
import pytest
import requests
import schemathesis
from fake import FakeEngine, client_of, picture
from hypothesis import HealthCheck, Phase, settings

from headway.serve.app import create_app
from headway.serve.settings import Settings

GUARD = create_app(FakeEngine(), Settings(max_mib=1))
SCHEMA = schemathesis.openapi.from_dict(GUARD.app.openapi())
BYTES = [
    b"",
    b"\xff\xd8\xff\xe0",
    b"\x00" * 300,
    b"BM" + b"\xff" * 60,
    picture(),
    picture()[:40],
    b"P6 99999 99999 255\n",
]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def client(loop: asyncio.Runner) -> Iterator[httpx.AsyncClient]:
    context = client_of(FakeEngine(), max_mib=1)
    yield loop.run(context.__aenter__())
    loop.run(context.__aexit__(None, None, None))


@SCHEMA.parametrize()
@settings(
    max_examples=25, derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate], database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_no_request_is_a_fault(case, loop, client):
    request = requests.Request(**case.as_transport_kwargs(base_url="http://localhost")).prepare()
    headers = {**request.headers, "Host": "localhost"}
    body = request.body.encode() if isinstance(request.body, str) else request.body
    answer = loop.run(client.request(request.method, request.url, content=body, headers=headers))
    assert answer.status_code < 500, (case, answer.text)
    documented = case.operation.definition.raw["responses"]
    assert str(answer.status_code) in documented or answer.status_code in (404, 405), answer.text
    if answer.status_code >= 400:
        assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("body", BYTES, ids=range(len(BYTES)))
@pytest.mark.parametrize("kind", ["image/jpeg", "multipart/form-data; boundary=x", "text/html", 'a/b; c="d'])
def test_no_body_is_a_fault(body, kind, loop, client):
    for path in ("/v1/detect", "/v1/detect?format=jpeg", "/v1/detect?format=coco", "/v1/views/gates"):
        answer = loop.run(client.post(path, content=body, headers={"Content-Type": kind}))
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert set(answer.json()) == {"error"}
