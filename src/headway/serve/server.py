"""uvicorn with a bound on connections, on a socket that is taken before the model is loaded."""

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import HeadwayError
from .guard import JsonLines
from .settings import Settings

_HEADERS_WITHIN = 10.0  # seconds from a connection, or from its last answer, to the end of the next request's headers
_OTHER_FILES = 64  # descriptors that are not connections
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises: HeadwayError where it cannot."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise HeadwayError(f"there is no address {host!r} on this machine: {error.strerror}") from None
    family, kind, protocol, _, address = found[0]
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
        opened.listen(2048)
    except OSError as error:
        opened.close()
        reason = (error.strerror or str(error)).lower()
        raise HeadwayError(
            f"port {port} of {host} cannot be used: {reason}; another service may run there: stop it, or name another "
            "port=0, which takes a free one"
        ) from None
    return opened


def url_of(listening: socket.socket) -> str:
    """As in http://127.0.0.1:8000"""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(app: ASGIApp, listening: socket.socket, settings: Settings, started: Callable[[], Any]) -> None:
    """Answer until SIGTERM or SIGINT, then let running requests end. started: called before the first answer.

    Raises: KeyboardInterrupt after SIGINT.
    """
    logging.getLogger("headway.serve").propagate = True
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines())
    raise_file_limit(settings.connections)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn's own comes on top, and raises it again at the end
    started()
    uvicorn.Server(config_of(app, settings)).run(sockets=[listening])


def config_of(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """One process, HTTP alone, no word of who serves, and no trust in what proxies say."""
    return uvicorn.Config(
        app, http=limited(settings.connections), ws="none", log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain)), proxy_headers=False, lifespan="on",
    )  # fmt: skip


def limited(connections: int) -> type[H11Protocol]:
    """uvicorn's protocol with bounds: on connections, and on the time to a request's headers."""

    class Connection(H11Protocol):
        """One connection. since: when it began to wait for a request."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect()
            if len(self.connections) > connections:
                # One that was aborted stays in the set until the loop comes to it.
                open_ones = [c for c in self.connections if isinstance(c, Connection) and not c.transport.is_closing()]
                if len(open_ones) > connections:
                    min((c for c in open_ones if c.is_idle), key=lambda c: c.since, default=self).transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self.timer.cancel()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._expect()

        @property
        def is_idle(self) -> bool:
            """Whether no request is being answered."""
            return self.cycle is None or self.cycle.response_complete

        def _expect(self) -> None:
            self.since = self.loop.time()
            with suppress(AttributeError):
                self.timer.cancel()
            self.timer = self.loop.call_later(_HEADERS_WITHIN, self._too_late)

        def _too_late(self) -> None:
            if self.is_idle:
                self.transport.abort()

    return Connection


def raise_file_limit(connections: int) -> None:
    """As many open files as connections need, where the system lets this process have them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
