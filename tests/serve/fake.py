"""An engine whose answers are worked out by hand, and an application around it that tests call without a socket."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from io import BytesIO
from typing import Any

import httpx
import numpy as np
from PIL import Image

from headway.data.image import read_pixels
from headway.runtime import Found
from headway.serve.app import create_app
from headway.serve.engine import Asked, Item
from headway.serve.settings import Settings

NAMES = ("cat", "dog")
CARD = {
    "class_names": NAMES, "category_ids": (17, 18), "metrics": {"threshold": 0.4}, "input_size": (64, 96),
    "score_threshold": 0.05, "max_detections": 100, "model": "fake", "licence": "Apache-2.0",
}  # fmt: skip
DETECT = "/v1/detect"
POISON = (255, 0, 255)  # pictures of this colour break the pass


class FakeEngine:
    """In a picture of w x h whose first pixel is (r, g, b): one box (0, 0, w, h) with score r / 255, label g % 2.

    gate: cleared, passes wait for it; entered: one has begun. passes: the sizes of the batches that ran.
    """

    name, kind, default_threshold = "fake.onnx", "exported", 0.05

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.card: dict[str, Any] = dict(CARD)
        self.views: dict[str, Callable[[Any, Any], dict[str, Any]]] = {}
        self.seconds, self.passes, self.seen = seconds, [], []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def decode(self, data: bytes, where: str, max_pixels: int) -> Any:
        return read_pixels(where, data=data, max_pixels=max_pixels)

    def prepare(self, pixels: Any, asked: Asked) -> Item:
        return Item(tuple(map(int, pixels[0, 0])), pixels.shape[:2], asked)

    def key(self, item: Item) -> Any:
        return item.size

    def run(self, items: Any) -> list[Found]:
        self.entered.set()
        self.gate.wait(20)
        time.sleep(self.seconds)
        self.passes.append(len(items))
        self.seen += [item.prepared for item in items]
        if any(item.prepared == POISON for item in items):
            raise RuntimeError("the network broke")
        return [self._found(item) for item in items]

    def _found(self, item: Item) -> Found:
        (red, green, _), (height, width) = item.prepared, item.size
        found = Found(
            np.array([[0, 0, width, height]], "f4"), np.array([red / 255], "f4"), np.array([green % 2]), NAMES,
            None, item.size,
        )  # fmt: skip
        return found.filter(threshold=item.asked.threshold or 0.05, classes=item.asked.classes)


def picture(red: int = 204, green: int = 0, blue: int = 0, size: tuple[int, int] = (12, 8), kind: str = "PNG") -> bytes:
    """A file of one colour. size: (width, height)."""
    file = BytesIO()
    Image.new("RGB", size, (red, green, blue)).save(file, kind)
    return file.getvalue()


@asynccontextmanager
async def client_of(engine: Any, *, ready: bool = True, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that has started. ready: wait for its warm-up, which is then forgotten."""
    app = create_app(engine, Settings(**settings))
    headers = {"Authorization": f"Bearer {settings['token']}"} if "token" in settings else {}
    async with app.app.router.lifespan_context(app.app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
            if ready:
                await until(client, "headway_ready 1.0")
                if isinstance(engine, FakeEngine):
                    engine.passes.clear()
                    engine.seen.clear()
                    engine.entered.clear()
            yield client


async def until(client: httpx.AsyncClient, line: str) -> None:
    """Wait for a line of `/metrics`."""
    while line not in (await client.get("/metrics")).text:
        await asyncio.sleep(0.005)


@contextmanager
def closed(engine: FakeEngine) -> Iterator[None]:
    """Passes wait until the end of this."""
    engine.gate.clear()
    try:
        yield
    finally:
        engine.gate.set()


def call(*requests, engine=None, **settings):
    """The answers to (method, path, options) of one application."""

    async def main():
        async with client_of(engine or FakeEngine(), **settings) as client:
            return [await client.request(method, path, **options) for method, path, options in requests]

    return asyncio.run(main())


def post(content, path=DETECT, *, engine=None, settings=None, **options):
    body = {"content": content} if isinstance(content, bytes) else {}
    return call(("POST", path, {**body, **options}), engine=engine, **(settings or {}))[0]


def error_of(answer) -> str:
    """The one line of an error, and nothing else."""
    assert set(answer.json()) == {"error"}
    assert "\n" not in answer.json()["error"]
    return answer.json()["error"]
