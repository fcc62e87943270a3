"""The routes that answer with numbers. `app` puts them together with the pages and the errors."""

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from ..options import labels_of
from . import answers
from .bodies import RefusedError, Upload
from .engine import Asked
from .service import Seen, Service, Unread

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_PICTURE = dict.fromkeys(("image/jpeg", "image/png", "image/webp", "application/octet-stream"), _BYTES)
_FORM = {
    "schema": {
        "type": "object", "required": ["images"],
        "properties": {"images": {"type": "array", "items": _BYTES["schema"], "minItems": 1}},
    }
}  # fmt: skip
_PROBLEMS = {
    400: "An empty body, or a damaged form",
    401: "No token, or a wrong one",
    403: "A name or a site that may not ask",
    404: "A view that this model does not have",
    408: "The body did not arrive in time",
    413: "Too many bytes, pixels or pictures",
    415: "No picture, or none of a known format",
    422: "An option out of range, or a picture that is damaged",
    500: "A fault of the service, which its log names",
    503: "The queue is full; Retry-After says in how many seconds to ask again",
    504: "No answer in time",
}


class Ask(BaseModel):
    """Options of a detection, as of `predict`."""

    model_config = ConfigDict(extra="forbid")
    threshold: Annotated[
        float | None, Field(ge=0, le=1, allow_inf_nan=False, description="Keep what scores more. Default: the model's")
    ] = None
    max_detections: Annotated[
        int | None, Field(ge=1, le=100_000, description="Most detections of a picture. Default: the model's")
    ] = None
    classes: Annotated[list[str], Field(description="Names of the classes to keep. Default: all")] = []
    format: Annotated[
        Literal["json", "jpeg", "coco"],
        Field(description="json; coco: result rows; jpeg: the picture with its boxes, of one picture"),
    ] = "json"


class Pixel(BaseModel):
    """The pixel whose sampling points are asked for. Default: the centre of the best detection."""

    model_config = ConfigDict(extra="forbid")
    x: Annotated[float | None, Field(ge=0, allow_inf_nan=False, description="Pixels from the left")] = None
    y: Annotated[float | None, Field(ge=0, allow_inf_nan=False, description="Pixels from the top")] = None


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": answers.Problem, "description": _PROBLEMS[status]} for status in statuses}


def add_detection(app: FastAPI, service: Service) -> None:
    card = service.engine.card
    ok = {
        "description": "What was found; of a form a list with each of its pictures",
        "model": answers.Answer | answers.Answers | list[answers.CocoRow],
        "content": {"image/jpeg": _BYTES},
    }
    errors = _problems(400, 401, 403, 408, 413, 415, 422, 500, 503, 504)

    @app.post(
        "/v1/detect", summary="Detect in one or many pictures", tags=["detect"], response_class=Response,
        responses={200: ok, **errors},
        openapi_extra={"requestBody": {"required": True, "content": {**_PICTURE, "multipart/form-data": _FORM}}},
    )  # fmt: skip
    async def detect(request: Request, ask: Annotated[Ask, Query()]) -> Response:
        """The body is one picture, or a form with files. Boxes are x1, y1, x2, y2 in pixels of the upright picture.

        The numbers are those of `predict`, to the bit. In a form a picture that cannot be read fails alone, with its
        `error` and `status`; where all fail, the answer is the first one's error."""
        labels_of(ask.classes, card["class_names"])
        asked = Asked(ask.threshold, ask.max_detections, tuple(ask.classes) or None)
        if ask.format == "jpeg":

            async def drawn(upload: Upload) -> bytes:
                return await service.draw(await service.look(upload, asked))

            return Response(await service.one(request, drawn), media_type="image/jpeg")
        form, results = await service.detect(request, asked)
        seen = [result for result in results if isinstance(result, Seen)]
        if not seen and isinstance(results[0], Unread):
            raise results[0].error
        if ask.format == "coco":
            return JSONResponse(answers.coco_rows(seen, card["category_ids"] or None))
        name = service.engine.name
        if form:
            pictures = [answers.of_picture(result) for result in results]
            return as_json(answers.Answers(model=name, pictures=pictures))
        return as_json(answers.Answer(model=name, **answers.numbers_of(seen[0])))


def add_views(app: FastAPI, service: Service) -> None:
    engine = service.engine
    errors = _problems(400, 401, 403, 404, 408, 413, 415, 422, 500, 503, 504)

    @app.post(
        "/v1/views/{name}", summary="What the network does with a picture", tags=["look inside"],
        response_class=Response,
        responses={200: {"model": answers.ViewAnswer, "description": "The numbers of the view"}, **errors},
        openapi_extra={"requestBody": {"required": True, "content": _PICTURE}},
    )  # fmt: skip
    async def view(request: Request, name: Literal["gates", "sampling"], pixel: Annotated[Pixel, Query()]) -> Response:
        """gates: what a Dynamic Head's scale attention lets through. sampling: where the last deformable layers look
        for one pixel. `/v1/model` lists the views of this model."""
        if name not in engine.views:
            why = "an exported file has none" if engine.kind == "exported" else "its network has no such part"
            raise RefusedError(404, f"{engine.name} has no view {name!r}: {why}; /v1/model lists its views")
        if (pixel.x is None) != (pixel.y is None):
            raise RefusedError(422, "x and y must come together, got one of them")
        at = None if pixel.x is None or pixel.y is None else (pixel.x, pixel.y)
        return as_json(answers.ViewAnswer(**await service.one(request, lambda upload: service.view(name, upload, at))))


def add_state(app: FastAPI, service: Service) -> None:
    info = answers.model_info(service)

    @app.get(
        "/v1/model", summary="The model and the bounds of a request", tags=["detect"], responses=_problems(401, 403)
    )
    async def model() -> answers.ModelInfo:
        return info

    @app.get("/healthz", summary="Whether the process answers", tags=["operation"], responses=_problems(403))
    async def healthz() -> answers.State:
        return answers.State(status="ok")

    warming = {503: {"model": answers.State, "description": "The first passes are still running"}}

    @app.get(
        "/readyz", summary="Whether the warm-up is over", tags=["operation"], responses={**_problems(403), **warming}
    )
    async def readyz() -> answers.State:
        if not service.ready:
            state = answers.State(status="warming up").model_dump()
            return JSONResponse(state, 503, {"Retry-After": "1"})  # type: ignore[return-value]
        return answers.State(status="ok")

    text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @app.get(
        "/metrics", summary="For Prometheus", tags=["operation"], response_class=Response,
        responses={**text, **_problems(401, 403)},
    )  # fmt: skip
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def as_json(answer: BaseModel) -> Response:
    """Without what is not there. Floats are written so that they read back to the bit."""
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")
