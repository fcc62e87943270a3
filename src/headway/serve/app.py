"""The application: the routes of `api`, the pages, and every error as one line of JSON.

app = create_app(open_engine("runs/photos"))      # any ASGI server runs it; `headway serve` does with its own bounds
"""

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from re import DOTALL, findall
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from .. import __version__
from ..errors import HeadwayError, nearest
from .api import Ask, Pixel, add_detection, add_state, add_views
from .batcher import FullError
from .bodies import GoneError, RefusedError
from .engine import Engine
from .guard import Guard
from .reference import reference_page
from .service import Service, line_of, status_of
from .settings import Settings

_CLOSED = 499  # of nobody's standard: the client went before the answer


def create_app(engine: Engine, settings: Settings | None = None) -> Guard:
    """The ASGI application."""
    settings = settings or Settings()
    service = Service(engine, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="headway", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        summary=f"Object detection with {engine.name}", openapi_url="/openapi.json",
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )  # fmt: skip
    add_detection(app, service)
    add_views(app, service)
    add_state(app, service)
    _add_pages(app)
    app.add_exception_handler(HeadwayError, _of_headway)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(GoneError, _of_gone)
    app.add_exception_handler(Exception, _of_fault)
    paths = {path for route in app.routes if "{" not in (path := getattr(route, "path", "{"))}
    views = {f"/v1/views/{name}" for name in ("gates", "sampling")}
    return Guard(app, settings, service.metrics, frozenset(paths | views))


def _add_pages(app: FastAPI) -> None:
    page = Path(__file__).with_name("page.html").read_bytes()
    policy = _policy(page)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy})

    @app.get("/docs", include_in_schema=False)
    async def reference() -> Response:
        text = reference_page(app.openapi()).encode()
        headers = {"Content-Security-Policy": _policy(text)}
        return Response(text, media_type="text/html; charset=utf-8", headers=headers)


def _policy(page: bytes) -> str:
    """What a page may load: its own script and style, known by their digests, and this service."""
    digests = {
        tag: " ".join(
            f"'sha256-{b64encode(sha256(content).digest()).decode()}'"
            for content in findall(rb"<%s>(.*?)</%s>" % (tag.encode(), tag.encode()), page, DOTALL)
        )
        for tag in ("script", "style")
    }
    script = digests["script"] or "'none'"
    return (
        f"default-src 'none'; script-src {script}; "
        f"style-src {digests['style']}; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _problem(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": " ".join(text.split())}, status, headers)


async def _of_headway(_: Request, error: Exception) -> Response:
    assert isinstance(error, HeadwayError)
    headers = error.headers if isinstance(error, RefusedError) else {}
    if isinstance(error, FullError):
        headers = {"Retry-After": str(error.seconds)}
    return _problem(status_of(error), line_of(error), headers)


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:100]
    text = {
        404: f"there is no {path!r} here; /docs lists what there is",
        405: f"{request.method[:10]} is not for {path!r}; /docs says what is",
    }.get(error.status_code, str(error.detail))
    return _problem(error.status_code, text, dict(error.headers or {}))


async def _of_validation(_: Request, error: Exception) -> Response:
    """The first thing that is wrong with the options."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where, name = first["loc"][0], str(first["loc"][1] if len(first["loc"]) > 1 else first["loc"][0])
    if first["type"] == "extra_forbidden":
        hint = nearest(name, [*Ask.model_fields, *Pixel.model_fields]) or "/docs lists the options"
        return _problem(422, f"there is no option {name[:80]!r}; {hint}")
    said = first["msg"].removeprefix("Input should be ").removeprefix("a ")
    what = f"option {name}" if where == "query" else name
    return _problem(422, f"{what} must be {said}, got {str(first.get('input'))[:80]!r}")


async def _of_gone(*_: Any) -> Response:
    return Response(status_code=_CLOSED)


async def _of_fault(*_: Any) -> Response:
    return _problem(500, "the service failed; its log says where")
