"""Debian's Chromium, driven by Playwright, at a service in a thread. `.ci/run` installs the browser."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright

import headway
from headway.demo import ASSETS
from headway.serve.app import create_app
from headway.serve.checkpoint_engine import CheckpointEngine
from headway.serve.server import config_of, listen
from headway.serve.settings import Settings

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)  # fmt: skip


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The address of a service around the shipped checkpoint, which has a Dynamic Head."""
    engine = CheckpointEngine(headway.load(ASSETS / "demo.safetensors"), "demo.safetensors")
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(config_of(create_app(engine, settings), settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with serving(Settings(max_mib=8)) as url:
        yield url


@pytest.fixture(scope="session")
def guarded() -> Iterator[str]:
    """Of a service that asks for the token s3cret."""
    with serving(Settings(token="s3cret")) as url:
        yield url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Closed behind a file's last test: while Playwright runs, `asyncio.run` does not, which others need."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=[*FLAGS])
        yield browser
        browser.close()


@pytest.fixture(params=[(1200, 850)], ids=["desk"])
def page(request: pytest.FixtureRequest, chromium: Browser, address: str) -> Iterator[Page]:
    """The page, open and ready. A script error, a refused load or a request to another host fails the test."""
    width, height = request.param
    context = chromium.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
    opened, wrong = context.new_page(), []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
    opened.on("request", lambda asked: wrong.append(asked.url) if _is_foreign(asked.url, address) else None)
    opened.goto(address)
    opened.locator("#model").get_by_text("demo.safetensors, 3 classes").wait_for()
    yield opened
    context.close()
    assert wrong == []


def _is_foreign(url: str, address: str) -> bool:
    return not url.startswith((address, "blob:", "data:"))
