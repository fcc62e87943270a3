"""Of a source that does not wait, the latest item."""

from collections.abc import Iterable, Iterator
from threading import Condition, Thread
from typing import Generic, TypeVar

T = TypeVar("T")
_PATIENCE = 15.0  # seconds that `stop` waits for a source that does not answer; readers give up before
_LISTEN = 0.5  # seconds after which a wait looks up, so that Ctrl-C is heard on Windows too


class Latest(Generic[T]):
    """A thread that takes every item as it comes and keeps the newest one; iterating gives it, or waits for the next.

    items: anything but None; only the thread touches it. dropped: items that a newer one replaced.
    An error of `items` is raised behind the last item.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self.dropped = 0
        self._items = items
        self._item: T | None = None
        self._error: BaseException | None = None
        self._ended = self._stopped = False
        self._changed = Condition()
        self._thread = Thread(target=self._read, name="latest frame", daemon=True)

    def _read(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    if self._stopped:
                        return
                    self.dropped += self._item is not None
                    self._item = item
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """The thread starts here. Raises: what `items` raised."""
        self._thread.start()
        while True:
            with self._changed:
                while self._item is None and not self._ended:
                    self._changed.wait(_LISTEN)
                item, self._item = self._item, None
            if item is None:
                break
            yield item
        if self._error is not None:
            raise self._error

    def stop(self) -> bool:
        """Let the thread end; whether it has."""
        with self._changed:
            self._stopped = True
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)
        return not self._thread.is_alive()
