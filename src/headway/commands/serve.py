"""`headway serve`: an HTTP service and a page around a model."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..errors import HeadwayError
from ..resolve import is_exported
from .common import Device, Precision, UsageError, check_fixed, resolve_model, say, show, show_json
from .picture_views import PictureViews

if TYPE_CHECKING:
    from ..serve.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """Answer over HTTP what a model finds in pictures, with a page at the same address: `headway serve runs/photos`.

    POST /v1/detect takes a picture or a form with pictures; /docs describes it, /metrics counts. Of an exported file
    no PyTorch is imported. It ends on Ctrl-C or SIGTERM, after the requests that run.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A checkpoint, run folder, published tag (atss_r50_fpn.mmdet) or exported file (photos.onnx)."""
    host: str = "127.0.0.1"
    """Address to listen at. 0.0.0.0 lets other machines in; give --token-file with it."""
    port: int = 8000
    """0 takes a free one, which the first line on stdout names."""
    token_file: Annotated[Path | None, arg(metavar="FILE")] = None
    """A file with a secret that every request must bring: Authorization: Bearer SECRET."""
    allow_host: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """Further names by which the service is called, as behind a proxy. Default on 127.0.0.1 without a token: localhost
    alone."""
    max_batch: int = 8
    """Most pictures per pass. Where a batch changes the last bits of a result, pictures run one by one all the same."""
    inexact: bool = False
    """Allow batches that change the last bits of a result."""
    queue: int = 64
    """Most pictures that wait. A request beyond is answered with 503."""
    max_mib: float = 20
    """Most MiB of a request."""
    max_pixels: int = 50_000_000
    """Most pixels of a picture."""
    max_pictures: int = 16
    """Most pictures of a request."""
    timeout: float = 30
    """Seconds from a request to its answer."""
    drain: float = 10
    """Seconds that are left to running requests at the end."""
    threads: int = 0
    """Threads of the CPU; 0: the engine's own choice."""
    precision: Precision = "fp32"
    """Number format of the network."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    json: bool = False
    """Print the address as JSON."""
    views: OmitArgPrefixes[PictureViews] = field(default_factory=PictureViews)

    def run(self) -> int:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port must be in 0..65535, got {self.port}")
        lowest = {"threads": 0, "queue": 1, "max_batch": 1, "max_pixels": 1, "max_pictures": 1}
        for name, low in (lowest | dict.fromkeys(("max_mib", "timeout", "drain"), 0.001)).items():
            if not getattr(self, name) >= low:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {low}, got {getattr(self, name)}")
        path = resolve_model(self.model).path  # what is missing is told before anything slow is imported
        if is_exported(path):
            check_fixed(path, self.device, self.precision)
        looks = self.views.settings(path if is_exported(path) else None)
        try:
            from ..serve.server import listen, serve, url_of
        except ImportError as error:
            raise HeadwayError(f"serving needs {error.name}: pip install 'headway[serve]'") from None
        settings = self._settings()
        listening = listen(self.host, self.port)
        url = url_of(listening)

        from ..serve.app import create_app
        from ..serve.engine import open_engine

        engine = open_engine(
            self.model, device=self.device, precision=self.precision, threads=self.threads, **looks
        )  # fmt: skip
        app = create_app(engine, settings)

        def started() -> None:
            text = {"url": url, "model": engine.name, "pid": os.getpid()}
            show_json(text) if self.json else show(f"{engine.name} is served at {url}")

        serve(app, listening, settings, started)
        return 0

    def _settings(self) -> Settings:
        from ..serve.server import LOOPBACK
        from ..serve.settings import Settings

        token = "" if self.token_file is None else read_token(self.token_file)
        local = self.host in LOOPBACK
        if not local and not token:
            say(f"anybody who reaches {self.host} may use this service: --token-file FILE asks for a secret")
        named = tuple(name.lower() for name in self.allow_host)
        hosts = (*named, *((*LOOPBACK, "[::1]") if local and (named or not token) else ()))
        return Settings(
            queue=self.queue, max_batch=self.max_batch, inexact=self.inexact, max_mib=self.max_mib,
            max_pixels=self.max_pixels, pictures=self.max_pictures, timeout=self.timeout, drain=self.drain,
            token=token, hosts=hosts,
        )  # fmt: skip


def read_token(path: Path) -> str:
    """The secret in a file, without the line's end. Raises: HeadwayError for one that cannot be a header's."""
    try:
        token = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise HeadwayError(f"the token file {path} cannot be read: {reason}") from None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise HeadwayError(f"{path} must hold one word of ASCII characters as the token: openssl rand -hex 32 > {path}")
    return token
