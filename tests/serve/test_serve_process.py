"""Real processes on real sockets: start, port, token, drain, kill, and clients that behave badly."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fake import FakeEngine, picture

from headway.cli import main
from headway.serve.app import create_app
from headway.serve.server import config_of, listen
from headway.serve.settings import Settings

# `headway serve` around the engine of `fake`, with no torch to import.
_FAKE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "torchvision", "timm", "onnxruntime"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
sys.path.insert(0, sys.argv.pop(1))
from fake import FakeEngine
from headway.serve import engine
engine.open_engine = lambda *_, **__: FakeEngine(seconds=float(sys.argv.pop(1)))
from headway.cli import main
sys.exit(main(sys.argv[2:]))
"""
Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(seconds of a pass, options ...) -> (process, its address)."""
    running = []
    (tmp_path / "fake.onnx").touch()

    def run(seconds: float, *options: object, stderr: object = subprocess.PIPE) -> tuple[subprocess.Popen[str], str]:
        words = [sys.executable, "-c", _FAKE, Path(__file__).parent, seconds, "serve", tmp_path / "fake.onnx"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*map(str, words), *map(str, options), "--json"], stdout=subprocess.PIPE, stderr=stderr, text=True,
            env=environment,
        )  # fmt: skip
        running.append(process)
        lines = [process.stdout.readline() for _ in range(5)]  # empty ones where the process has ended
        return process, json.loads("".join(lines))["url"]

    yield run
    for process in running:
        process.kill()
        process.communicate()


def wait_ready(url: str) -> None:
    while httpx.get(f"{url}/readyz").status_code != 200:
        time.sleep(0.02)


def test_sigterm_drains_and_a_second_instance_says_that_the_port_is_taken(start, tmp_path, capsys):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    process, url = start(0.3, "--port", 0, "--token-file", token, "--max-batch", 1)
    wait_ready(url)
    headers = {"Authorization": "Bearer s3cret"}
    assert httpx.get(f"{url}/v1/model").status_code == 401
    assert httpx.get(f"{url}/v1/model", headers=headers).json()["name"] == "fake.onnx"

    port = url.rpartition(":")[2]
    assert main(["serve", str(tmp_path / "fake.onnx"), "--port", port]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"headway: port {port} of 127.0.0.1 cannot be used: address already in use")
    assert error.count("\n") == 1

    answers: list[int] = []

    def ask() -> None:
        answers.append(httpx.post(f"{url}/v1/detect", content=picture(), headers=headers, timeout=20).status_code)

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    while "headway_queue_pictures 4.0" not in httpx.get(f"{url}/metrics", headers=headers).text:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join()
    assert answers == [200] * 4
    _, log = process.communicate()
    assert process.returncode == 0
    events = [json.loads(line) for line in log.splitlines()]
    assert {"request", "ready"} <= {event["event"] for event in events}
    assert "s3cret" not in log


def test_a_killed_service_starts_again_at_its_port_under_load(start):
    process, url = start(0.01, "--port", 0)
    port, stop, seen = url.rpartition(":")[2], threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            try:
                seen.append(httpx.post(f"{url}/v1/detect", content=picture(), timeout=20).status_code)
            except httpx.TransportError:
                seen.append(0)
                time.sleep(0.02)

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    wait_ready(url)
    process.send_signal(signal.SIGKILL)
    process.wait()
    start(0.01, "--port", port)
    wait_ready(url)
    before = len(seen)
    while len(seen) < before + 10:
        time.sleep(0.02)
    stop.set()
    for thread in asking:
        thread.join()
    assert set(seen) == {0, 200}
    assert seen[-1] == 200


def test_a_full_disk_under_the_log_stops_nothing(start):
    with open("/dev/full", "w") as full:
        process, url = start(0, "--port", 0, stderr=full)
    wait_ready(url)
    assert httpx.post(f"{url}/v1/detect", content=picture()).status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--port", "70000"], 2, "--port must be in 0..65535, got 70000"),
        (["--threads", "-1"], 2, "--threads must be at least 0, got -1"),
        (["--max-pictures", "0"], 2, "--max-pictures must be at least 1, got 0"),
        (["--token-file", "none"], 1, "the token file none cannot be read: No such file or directory"),
        (["--host", "192.0.2.1"], 1, "port 8000 of 192.0.2.1 cannot be used: cannot assign requested address"),
        (["--precision", "bf16"], 2, "is an exported file: it runs on the CPU as it was written"),
    ],
)
def test_mistakes_are_one_line(options, code, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.onnx").touch()
    assert main(["serve", "a.onnx", *options]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.removeprefix(_TOLD).count("\n") == 1


_TOLD = "anybody who reaches 192.0.2.1 may use this service: --token-file FILE asks for a secret\n"


def test_an_empty_token_is_refused_and_an_open_door_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.onnx").touch()
    for content in ("", "two words", "ü"):
        Path("token").write_text(content)
        assert main(["serve", "a.onnx", "--token-file", "token"]) == 1
        assert "token must hold one word of ASCII characters" in capsys.readouterr().err
    assert main(["serve", "a.onnx", "--host", "0.0.0.0", "--port", "0"]) == 1  # the file is none
    told, error = capsys.readouterr().err.splitlines()
    assert told == "anybody who reaches 0.0.0.0 may use this service: --token-file FILE asks for a secret"
    assert "is no ONNX file" in error


@pytest.fixture
def inside(monkeypatch) -> Iterator[tuple[uvicorn.Server, int]]:
    """A service in a thread, with room for 8 connections and little patience: (server, port)."""
    monkeypatch.setattr("headway.serve.server._HEADERS_WITHIN", 1.0)
    settings = Settings(connections=8, timeout=1.0)
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(config_of(create_app(FakeEngine(), settings), settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    port = listening.getsockname()[1]
    thread.start()
    wait_ready(f"http://127.0.0.1:{port}")
    yield server, port
    server.should_exit = True
    thread.join()


def test_clients_that_behave_badly_keep_nobody_out(inside):
    """Silent connections, bodies that stop half-way and headers that never end, many more than there is room for."""
    server, port = inside
    head = b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf"
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    for connection in slow:
        connection.sendall(head)
    endless = socket.create_connection(("127.0.0.1", port))
    endless.sendall(b"GET /healthz HTTP/1.1\r\nX-A: ")
    for _ in range(5):
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/detect", content=picture())
        assert answer.status_code == 200
    assert len(server.server_state.connections) <= 8
    for connection in slow:  # each is told, or closed for want of room
        connection.settimeout(10)
        assert connection.recv(1000)[:12] in (b"HTTP/1.1 408", b"")
    for connection in [*silent, endless]:
        connection.settimeout(10)
        assert _is_closed(connection)
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert "headway_body_bytes 0.0" in text
    assert "headway_queue_pictures 0.0" in text


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


def test_a_connection_serves_many_requests_and_errors_do_not_break_it(inside):
    _, port = inside
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for body, expected in ((picture(), 200), (b"", 400), (b"nothing", 415), (picture(), 200)):
        connection.request("POST", "/v1/detect", body)
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (expected, True)
