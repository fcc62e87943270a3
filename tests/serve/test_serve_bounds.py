"""Bounds and doors of the HTTP interface, in process: queue, time, bytes, clients that leave, tokens, names, logs."""

import asyncio
import json
import re

import httpx
import pytest
from fake import DETECT, FakeEngine, call, client_of, closed, error_of, picture, post, until

from headway.serve import bodies


# ------------------------------------------------------------------------------------------------------------- bounds
def test_a_full_queue_answers_503_with_the_time_to_come_back_and_loses_nothing():
    async def main():
        engine = FakeEngine()
        async with client_of(engine, queue=3) as client:
            with closed(engine):
                waiting = [asyncio.create_task(client.post(DETECT, content=picture(red))) for red in (51, 102, 153)]
                await until(client, "headway_queue_pictures 3.0")
                full = await client.post(DETECT, content=picture())
                assert full.status_code == 503
                assert 1 <= int(full.headers["retry-after"]) <= 60
                assert "the queue is full: 3 of 3 pictures wait" in error_of(full)
            scores = [(await task).json()["detections"][0]["score"] for task in waiting]
            assert scores == pytest.approx([0.2, 0.4, 0.6])
            assert (await client.post(DETECT, content=picture())).status_code == 200
            text = (await client.get("/metrics")).text
            assert "headway_queue_pictures 0.0" in text
            assert "headway_body_bytes 0.0" in text
            assert 'headway_pictures_total{outcome="full"} 1.0' in text

    asyncio.run(main())


def test_what_comes_too_late_is_504_and_is_not_looked_at():
    async def main():
        engine = FakeEngine()
        async with client_of(engine, timeout=0.5) as client:
            with closed(engine):
                first = asyncio.create_task(client.post(DETECT, content=picture(51)))
                await asyncio.to_thread(engine.entered.wait, 20)
                late = [await client.post(DETECT, content=picture(102)), await first]
            assert [answer.status_code for answer in late] == [504, 504]
            assert "no answer within 0.5 s" in error_of(late[0])
            assert (await client.post(DETECT, content=picture(153))).status_code == 200
        return [red for red, *_ in engine.seen]

    assert asyncio.run(main()) == [51, 153]


def test_a_body_that_does_not_end_is_408():
    async def slow():
        yield b"a"
        await asyncio.sleep(20)

    async def main():
        async with client_of(FakeEngine(), timeout=0.2) as client:
            return await client.post(DETECT, content=slow())

    answer = asyncio.run(main())
    assert (answer.status_code, answer.headers["connection"]) == (408, "close")
    assert error_of(answer) == "the body must arrive within 0.2 s, got 1 bytes of it"


def test_a_request_that_its_client_has_left_is_not_computed():
    """Straight over ASGI: the second of two requests is told that its client has gone."""

    async def main():
        engine = FakeEngine()
        async with client_of(engine) as client:
            app = client._transport.app
            gone, sent = asyncio.Event(), []
            messages = [{"type": "http.request", "body": picture(102), "more_body": False}]

            async def receive():
                if messages:
                    return messages.pop()
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message):
                sent.append(message)

            scope = {
                "type": "http", "method": "POST", "path": DETECT, "raw_path": DETECT.encode(), "query_string": b"",
                "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
                "scheme": "http", "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"},
            }  # fmt: skip
            with closed(engine):
                first = asyncio.create_task(client.post(DETECT, content=picture(51)))
                await asyncio.to_thread(engine.entered.wait, 20)
                left = asyncio.create_task(app(scope, receive, send))
                await until(client, "headway_queue_pictures 2.0")
                await asyncio.sleep(0.1)
                gone.set()
                await left
            assert (await first).status_code == 200
            text = (await client.get("/metrics")).text
            assert 'headway_pictures_total{outcome="abandoned"} 1.0' in text
        return [red for red, *_ in engine.seen]

    assert asyncio.run(main()) == [51]


def test_more_bytes_than_the_service_holds_are_503(monkeypatch):
    monkeypatch.setattr(bodies, "BYTES_AT_ONCE", 0)
    files = [("a", ("a.png", picture() + bytes(900_000)))]

    async def main():
        engine = FakeEngine()
        async with client_of(engine, max_mib=1) as client:
            with closed(engine):
                tasks = [asyncio.create_task(client.post(DETECT, files=files)) for _ in range(3)]
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result().status_code for task in done] == [503]
            assert sorted([(await task).status_code for task in tasks]) == [200, 200, 503]

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------------------ security
def test_the_token():
    token = "s3cret"
    paths = ("/v1/model", "/metrics", "/docs", "/openapi.json", "/", "/healthz", "/readyz")
    for header, expected in (("", 401), ("Bearer wrong", 401), (f"Basic {token}", 401), (f"bearer {token}", 200)):
        answers = call(*[("GET", path, {"headers": {"Authorization": header}}) for path in paths], token=token)
        assert [answer.status_code for answer in answers] == [*[expected] * 4, 200, 200, 200]
    assert post(picture(), settings={"token": token}, headers={"Authorization": ""}).status_code == 401
    answer = call(("GET", "/v1/model", {"headers": {"Authorization": ""}}), token=token)[0]
    assert answer.headers["www-authenticate"] == "Bearer"
    assert token not in answer.text


def test_other_names_and_other_sites_may_not_ask():
    hosts = ("localhost", "127.0.0.1", "[::1]")
    for host, expected in (("localhost:8000", 200), ("[::1]:8000", 200), ("evil.example", 403), ("", 403)):
        answer = call(("GET", "/v1/model", {"headers": {"Host": host}}), hosts=("localhost", "[::1]"))[0]
        assert (host, answer.status_code) == (host, expected)
    for site, expected in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        answer = post(picture(), headers={"Sec-Fetch-Site": site}, settings={"hosts": hosts})
        assert (site, answer.status_code) == (site, expected)
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_pages_load_nothing_from_elsewhere_and_say_so():
    for path in ("/", "/docs"):
        (page,) = call(("GET", path, {}))
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page.text)
        assert page.headers["x-content-type-options"] == "nosniff"
    assert "curl -F images=@a.jpg" in page.text
    (answer,) = call(("GET", "/v1/model", {}))
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_the_log_holds_neither_pictures_nor_names_nor_options(caplog):
    with caplog.at_level("INFO", "headway.serve"):
        post(None, f"{DETECT}?classes=dog", files=[("a", ("private.png", picture()))])
    notes = [record.note for record in caplog.records if record.getMessage() == "request"]
    (note,) = [note for note in notes if note["path"] == DETECT]
    assert set(note) == {"method", "path", "status", "ms", "bytes", "pictures"}
    assert "private" not in caplog.text
    assert "dog" not in json.dumps(notes)


def test_httpx_is_only_a_client():
    """Nothing that serves imports it, since the extra does not bring it."""
    import headway.serve.app as app

    assert httpx.__name__ not in vars(app)
