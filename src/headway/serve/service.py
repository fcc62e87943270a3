"""A picture's way from a body to its detections: read in a pool of threads, grouped, looked at, counted."""

import asyncio
import io
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image
from starlette.requests import Request

from .. import __version__
from ..errors import HeadwayError, NoPictureError, TooManyPixelsError, one_line
from ..findings import Findings
from ..process import available_cores
from .batcher import Batcher, FullError
from .bodies import BODY, GoneError, RefusedError, Upload, is_form, new_ledger, read_body, split_form, while_connected
from .engine import Asked, Engine, Item, same
from .metrics import Metrics
from .settings import Settings

T = TypeVar("T")
logger = logging.getLogger("headway.serve")
_WARM = ((480, 640), (640, 480), (640, 640))  # height, width of the first pictures: the common shapes


class Seen(NamedTuple):
    """One picture and what was found. size: (height, width); read, queue, network: seconds."""

    upload: Upload
    found: Findings
    size: tuple[int, int]
    read: float
    queue: float
    network: float


class Unread(NamedTuple):
    """One picture of a request that could not be read. name: of its file."""

    name: str
    error: HeadwayError


class Service:
    """An engine behind a bounded queue. ready: whether the first passes, which are slow, are over."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings, self.metrics, self.ready = engine, settings, Metrics(), False
        self.readers = ThreadPoolExecutor(min(available_cores(), 4), "headway-reader")
        self.ledger = new_ledger(settings)
        self.metrics.gauge("headway_queue_pictures", "Pictures that are read, wait or are looked at", lambda: self.held)
        self.metrics.gauge("headway_queue_limit", "Pictures that may be there", lambda: settings.queue)
        self.metrics.gauge("headway_body_bytes", "Bytes of bodies that are held", lambda: self.ledger.held)
        self.metrics.gauge("headway_ready", "1 after the warm-up", lambda: float(self.ready))
        self.metrics.model.info({"name": engine.name, "kind": engine.kind, "version": __version__})
        for path in ("done", "refused", "full", "expired", "abandoned", "failed"):
            self.metrics.pictures.labels(path)
        self._batcher: Batcher | None = None

    @property
    def held(self) -> int:
        """Pictures that are read, wait or are looked at."""
        return self._batcher.held if self._batcher else 0

    @property
    def batcher(self) -> Batcher:
        assert self._batcher is not None, "the service is used inside `running`"
        return self._batcher

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Between start and end of the application, in its event loop."""
        settings = self.settings
        self._batcher = Batcher(
            settings.queue, settings.max_batch, None if settings.inexact else same,
            lambda pictures, _: self.metrics.batches.observe(pictures),
        )  # fmt: skip
        self._batcher.start()
        warming = asyncio.create_task(self._warm_up())
        try:
            yield
        finally:
            warming.cancel()
            await asyncio.gather(warming, return_exceptions=True)
            await self._batcher.stop()
            self.readers.shutdown(wait=False, cancel_futures=True)

    async def _warm_up(self) -> None:
        start = perf_counter()
        try:
            for height, width in _WARM:
                noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
                file = io.BytesIO()
                Image.fromarray(noise).save(file, "JPEG")
                await self._look(Upload("warm-up", file.getvalue()), Asked(), height * width)
        except Exception:
            logger.exception("the first pass failed, so the service never becomes ready")
            return
        self.ready = True
        logger.info("ready", extra={"note": {"model": self.engine.name, "seconds": round(perf_counter() - start, 2)}})

    async def detect(self, request: Request, asked: Asked) -> tuple[bool, list[Seen | Unread]]:
        """(whether the body is a form, what was found in each of its pictures or why nothing could be).

        Raises: RefusedError, FullError, GoneError.
        """
        return await self._with_uploads(request, lambda uploads: self._look_at_all(uploads, asked))

    async def one(self, request: Request, work: Callable[[Upload], Awaitable[T]]) -> T:
        """What `work` makes of the one picture of a request. Raises: RefusedError, as for a form of several."""

        async def alone(uploads: Sequence[Upload]) -> T:
            if len(uploads) > 1:
                raise RefusedError(422, f"this takes one picture, got a form with {len(uploads)}")
            return await work(uploads[0])

        return (await self._with_uploads(request, alone))[1]

    async def look(self, upload: Upload, asked: Asked) -> Seen:
        """Detections in one picture, counted. Raises: HeadwayError."""
        seen = await self._counted(self._look(upload, asked, self.settings.max_pixels))
        for stage in ("read", "queue", "network"):
            self.metrics.stages.labels(stage).observe(getattr(seen, stage))
        for label, count in Counter(seen.found.labels.tolist()).items():
            self.metrics.detections.labels(seen.found.name_of(label)).inc(count)
        return seen

    async def view(self, name: str, upload: Upload, pixel: tuple[float, float] | None) -> dict[str, Any]:
        """What a view shows of one picture; it has the network for itself. Raises: HeadwayError."""
        view = self.engine.views[name]

        async def work() -> dict[str, Any]:
            pixels = await self.read(upload)
            done = await self.batcher.submit(object(), pixels, lambda items: [view(items[0], pixel)])
            return dict(done.result)

        return await self._counted(work())

    async def draw(self, seen: Seen) -> bytes:
        """The picture with its boxes as JPEG. It is decoded again: kept pixels would be many times the queue's."""

        def work() -> bytes:
            pixels = self.engine.decode(seen.upload.data, seen.upload.name, self.settings.max_pixels)
            file = io.BytesIO()
            seen.found.plot(pixels).save(file, "JPEG", quality=92)
            return file.getvalue()

        return await asyncio.get_running_loop().run_in_executor(self.readers, work)

    async def read(self, upload: Upload) -> Any:
        """Its pixels. Raises: DataError."""
        work = (self.engine.decode, upload.data, upload.name, self.settings.max_pixels)
        return await asyncio.get_running_loop().run_in_executor(self.readers, *work)

    async def _with_uploads(self, request: Request, work: Callable[[Sequence[Upload]], Awaitable[T]]) -> tuple[bool, T]:
        """Read the body, take places in the queue, and work while the client listens."""
        settings, loop = self.settings, asyncio.get_running_loop()
        end = loop.time() + settings.timeout
        held: list[int] = []
        note = request.scope.setdefault("headway.note", {})
        try:
            kind = request.headers.get("content-type", "")
            form = is_form(kind)
            try:
                async with asyncio.timeout_at(end):
                    body = await read_body(request, settings, self.ledger, held)
            except TimeoutError:
                text = f"the body must arrive within {settings.timeout:g} s, got {sum(held):,} bytes of it"
                raise RefusedError(408, text, {"Connection": "close"}) from None
            note["bytes"] = len(body)
            uploads = [Upload(BODY, body)]
            if form:
                uploads = await loop.run_in_executor(self.readers, split_form, body, kind, settings.pictures)
            del body
            note["pictures"] = len(uploads)
            late = f"no answer within {settings.timeout:g} s; the queue holds {self.held} pictures"
            try:
                with self.batcher.reserve(len(uploads)):
                    return form, await while_connected(request, work(uploads), end - loop.time(), late)
            except (FullError, GoneError, RefusedError) as error:
                outcome = {FullError: "full", GoneError: "abandoned"}.get(type(error), "expired")
                if outcome != "expired" or getattr(error, "status", 0) == 504:
                    self.metrics.pictures.labels(outcome).inc(len(uploads))
                raise
        finally:
            self.ledger.held -= sum(held)

    async def _look_at_all(self, uploads: Sequence[Upload], asked: Asked) -> list[Seen | Unread]:
        """Each picture by itself: one that cannot be read is its own error."""

        async def one(upload: Upload) -> Seen | Unread:
            try:
                return await self.look(upload, asked)
            except HeadwayError as error:
                return Unread(upload.name, error)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(upload)) for upload in uploads]
        return [task.result() for task in tasks]

    async def _look(self, upload: Upload, asked: Asked, max_pixels: int) -> Seen:
        start = perf_counter()
        if not upload.data:
            raise RefusedError(400, f"the file {upload.name} is empty: send a picture")

        def read() -> Item:
            pixels = self.engine.decode(upload.data, upload.name, max_pixels)
            return self.engine.prepare(pixels, asked)

        item = await asyncio.get_running_loop().run_in_executor(self.readers, read)
        took = perf_counter() - start
        done = await self.batcher.submit(self.engine.key(item), item, self.engine.run)
        return Seen(upload, done.result, item.size, took, done.waited, done.ran)

    async def _counted(self, work: Awaitable[T]) -> T:
        """Counts a picture by its outcome; what a request's end makes of it is counted there."""
        try:
            result = await work
        except HeadwayError:
            self.metrics.pictures.labels("refused").inc()
            raise
        except Exception as error:
            self.metrics.pictures.labels("failed").inc()
            note = {"error": f"{type(error).__name__}: {error}"[:500]}
            logger.error("a picture failed", extra={"note": note}, exc_info=logger.isEnabledFor(logging.DEBUG))
            raise RefusedError(500, "the service failed on this picture; its log says where") from error
        self.metrics.pictures.labels("done").inc()
        return result


def status_of(error: HeadwayError) -> int:
    """The HTTP status that says what is wrong with a picture or a request."""
    if isinstance(error, RefusedError):
        return error.status
    kinds = {NoPictureError: 415, TooManyPixelsError: 413, FullError: 503}
    return next((status for kind, status in kinds.items() if isinstance(error, kind)), 422)


def line_of(error: HeadwayError) -> str:
    """One line for a client, without advice on a data set."""
    return re.sub(r"; [^;]* data set$", "", one_line(error, None))
