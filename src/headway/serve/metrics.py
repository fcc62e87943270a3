"""What `/metrics` shows, in a registry of its own."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """requests[path, status]; seconds[path] of a request; stages[stage] seconds of a picture in reading, the queue and
    the network; batches: pictures per pass; pictures[outcome]; detections[class]."""

    def __init__(self) -> None:
        disable_created_metrics()  # a second series for each, which nobody reads
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("headway_requests", "Requests", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "headway_request_seconds", "From the first byte to the answer", ["path"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.stages = Histogram(
            "headway_picture_seconds", "Of a picture: reading, queue, network", ["stage"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.batches = Histogram(
            "headway_batch_pictures", "Pictures per pass", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.pictures = Counter(
            "headway_pictures", "By outcome: done, refused, full, expired, abandoned, failed", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.detections = Counter("headway_detections", "By class", ["class"], registry=registry)
        self.model = Info("headway_model", "The model that answers", registry=registry)
        ProcessCollector(registry=registry)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A value that is asked for when it is shown."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)
