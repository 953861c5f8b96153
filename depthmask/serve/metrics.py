"""What /metrics tells, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class ServiceMetrics:
    """The counts of one service; `render` reads the gauges when it is asked."""

    def __init__(self, in_flight: Callable[[], int], queue_length: Callable[[], int]) -> None:
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            ProcessCollector,
        )

        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "depthmask_requests",
            "Requests answered, by endpoint and status code; 499 is a client that left.",
            ("endpoint", "code"),
            registry=self._registry,
        )
        self._rejected = Counter(
            "depthmask_rejected",
            "Requests refused or cut off, by reason.",
            ("reason",),
            registry=self._registry,
        )
        self._request_s = Histogram(
            "depthmask_request_seconds",
            "From a request's head to the end of its answer, of predictions that were made.",
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._inference_s = Histogram(
            "depthmask_inference_seconds",
            "Preprocessing, networks and resizing, without decoding and encoding.",
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        for name, text, read in (
            ("depthmask_in_flight", "Predictions that are read, queued, made or sent.", in_flight),
            ("depthmask_queue_length", "Predictions that wait for the one in work.", queue_length),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)

    def count(self, endpoint: str, code: int) -> None:
        """Count an answer."""
        self._requests.labels(endpoint, str(code)).inc()

    def count_rejected(self, reason: str) -> None:
        """Count a refusal."""
        self._rejected.labels(reason).inc()

    def time_request(self, seconds: float) -> None:
        """Note what a prediction took its client."""
        self._request_s.observe(seconds)

    def time_inference(self, seconds: float) -> None:
        """Note what a prediction took the pipeline."""
        self._inference_s.observe(seconds)

    def render(self) -> tuple[bytes, str]:
        """The text, and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
