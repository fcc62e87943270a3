"""What stands in front of the application: who may ask, which headers an answer carries, one line of log each."""

import hmac
import json
import logging
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics
from .settings import Settings

logger = logging.getLogger("headway.serve")

OPEN = ("/", "/healthz", "/readyz")  # without a token: the page holds nothing, and probes bring none
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class Guard:
    """The application behind its checks. paths: those that are told apart in metrics and log."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app, self.settings, self.metrics, self.paths = app, settings, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        fault: dict[str, Any] = {}
        try:
            await (self._refusal(scope) or self.app)(scope, receive, answer)
        except Exception as error:  # the application has answered with 500
            fault = {"error": f"{type(error).__name__}: {error}"[:500]}
            logger.debug("unexpected", exc_info=True)
        seconds = perf_counter() - start
        path = scope["path"] if scope["path"] in self.paths else "other"
        self.metrics.requests.labels(path, status or 499).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        note = {"method": scope["method"][:10], "path": path, "status": status or 499, "ms": round(1000 * seconds, 2)}
        note |= scope.get("headway.note", {}) | fault
        logger.log(logging.ERROR if fault else logging.INFO, "request", extra={"note": note})

    def _refusal(self, scope: Scope) -> Response | None:
        """Why this request is not let in, or nothing."""
        headers, settings = Headers(scope=scope), self.settings
        if settings.hosts and _host(headers.get("host", "")) not in settings.hosts:
            # A page elsewhere may have its own name point to this machine; such a name is not one of ours.
            text = f"this service is called {' or '.join(settings.hosts)}, not {headers.get('host', '')[:80]!r}"
            return JSONResponse({"error": f"{text}; start it with --allow-host NAME to add one"}, 403)
        if scope["method"] == "POST" and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return JSONResponse({"error": "a page of another site may not ask this service"}, 403)
        if settings.token and scope["path"] not in OPEN:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            known = hmac.compare_digest(given.strip().encode(), settings.token.encode())
            if scheme.lower() != "bearer" or not known:
                got = "a wrong one" if given else "none"
                text = f"expected the header `Authorization: Bearer TOKEN`, got {got}"
                return JSONResponse({"error": text}, 401, {"WWW-Authenticate": "Bearer"})
        return None


def _host(header: str) -> str:
    """Of a Host header, without the port."""
    return (header.partition("]")[0] + "]" if header.startswith("[") else header.partition(":")[0]).lower()


class JsonLines(logging.Formatter):
    """One JSON object a line. `note` of a record is part of it. No picture and no query ever is."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(), "event": record.getMessage(),
        }  # fmt: skip
        line |= getattr(record, "note", {})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
