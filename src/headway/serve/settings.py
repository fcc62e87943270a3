"""How much the service takes on. Nothing here imports torch or a web framework."""

from dataclasses import dataclass

from ..errors import check_number

MEBIBYTE = 2**20
BYTES_AT_ONCE = 256 * MEBIBYTE  # of all bodies that are held, or one body where that is larger


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The bounds of the service. Raises: HeadwayError for a value outside its range.

    queue: pictures that are read, wait, or are looked at; more are answered with 503.
    max_batch: most pictures per pass. inexact: allow passes of several pictures that change the last bits of a result.
    max_mib: of a request's body. max_pixels: height x width of a picture. pictures: of one request.
    timeout: seconds from a request's first byte to its answer. drain: seconds that SIGTERM leaves to running requests.
    connections: open at once; beyond it the one that has been idle longest is closed.
    token: what a request must bring as a bearer; "" lets all in. hosts: names by which the service may be called, ()
        for any.
    """

    queue: int = 64
    max_batch: int = 8
    inexact: bool = False
    max_mib: float = 20
    max_pixels: int = 50_000_000
    pictures: int = 16
    timeout: float = 30
    drain: float = 10
    connections: int = 1000
    token: str = ""
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("queue", "max_batch", "max_pixels", "pictures", "connections"):
            check_number(name, getattr(self, name), 1, whole=True)
        for name in ("max_mib", "timeout", "drain"):
            check_number(name, getattr(self, name), 0.001)

    @property
    def max_bytes(self) -> int:
        """Of a request's body."""
        return int(self.max_mib * MEBIBYTE)
