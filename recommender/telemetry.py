"""Spans and counters for OpenTelemetry, if the host has installed `opentelemetry-api`.

Without it nothing is imported, and `traced` returns functions as they are. Spans and metrics hold
numbers, and the names of functions and errors. They hold no key, text or cursor. They hold no
message of an error, because it may name a person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy.exc import UnboundExecutionError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

SCOPE = "recommender"
"""The name of the instrumentation scope, and the first part of every name in it."""

IS_INSTALLED = find_spec("opentelemetry") is not None

PAGE_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""The bounds of the histogram: a page takes 20 to 40 ms, and its last statement at most 15 s."""

F = TypeVar("F", bound=Callable[..., Any])


class Telemetry:
    """The instruments of this package.

    Args:
        tracers: where spans go; None for the provider that the host has set or will set.
        meters: the same for metrics.
    """

    def __init__(
        self, tracers: TracerProvider | None = None, meters: MeterProvider | None = None
    ) -> None:
        from opentelemetry import metrics, trace  # noqa: PLC0415 - it may not be installed

        meter = metrics.get_meter(SCOPE, meter_provider=meters)
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracers)
        self._use_span = trace.use_span
        self._failed = trace.StatusCode.ERROR
        self.current_span = trace.get_current_span
        self.page_duration = meter.create_histogram(
            "recommender.page.duration", "s", "Duration of For You pages.",
            explicit_bucket_boundaries_advisory=PAGE_SECONDS,
        )  # fmt: skip
        self.places = meter.create_counter(
            "recommender.places", "{place}", "Videos on For You pages."
        )
        self.exhausted_pages = meter.create_counter(
            "recommender.exhausted_pages", "{page}", "For You pages that ran out of videos."
        )
        self.retries = meter.create_counter(
            "recommender.retries", "{transaction}", "Transactions that were tried again."
        )

    def start_span(self, name: str) -> Span | None:
        """Start the span of a function; None if the host has set no provider of spans."""
        started = self._tracer.start_span(f"{SCOPE}.{name}")
        return started if started.get_span_context().is_valid else None

    @contextmanager
    def within(self, started: Span, name: str, bind: object) -> Iterator[None]:
        """Make a span the current one, and end it; if the block fails, it has the error's class."""
        with self._use_span(
            started, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            if started.is_recording() and (system := _system(bind)):
                started.set_attributes({"db.system.name": system, "db.operation.name": name})
            try:
                yield
            except BaseException as error:
                kind = type(error)
                started.set_status(self._failed)
                started.set_attribute("error.type", f"{kind.__module__}.{kind.__qualname__}")
                raise


@cache
def telemetry() -> Telemetry | None:
    """Return the instruments, None if the package is not installed."""
    if not IS_INSTALLED:
        return None
    try:
        return Telemetry()
    except ImportError:  # another package of OpenTelemetry than its API
        return None


def traced(function: F) -> F:
    """Make a span of each call of a function whose first argument is a session or engine."""
    if not IS_INSTALLED:
        return function

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        own, name = telemetry(), function.__name__
        # Without a provider, a page must not even load the code of a current span into the cache.
        started = own.start_span(name) if own else None
        if own is None or started is None:
            return function(*args, **kwargs)
        with own.within(started, name, args[0] if args else None):
            return function(*args, **kwargs)

    return cast(F, call)


def _system(bind: Any) -> str | None:
    """Return the name of a database system; None for files, or a session without one engine."""
    try:
        engine = bind.get_bind() if hasattr(bind, "get_bind") else bind
    except UnboundExecutionError:  # a host that binds several engines by class
        return None
    dialect = getattr(engine, "dialect", None)
    return None if dialect is None else str(dialect.name)


def describe(numbers: Mapping[str, float | None]) -> None:
    """Add numbers to the current span."""
    if (own := telemetry()) and (current := own.current_span()).is_recording():
        known = {f"{SCOPE}.{name}": value for name, value in numbers.items() if value is not None}
        current.set_attributes(known)


def count_page(
    *, videos: int, position: int, seconds: float, exhausted: bool, recorded: bool
) -> None:
    """Count a page of For You.

    Args:
        videos: the number of its videos.
        position: the position of its first video in the session.
        seconds: how long it took.
        exhausted: whether no other video may be shown.
        recorded: whether it is served; false for previews, evaluations and reports.
    """
    if own := telemetry():
        kind = {"recommender.recorded": recorded}
        own.page_duration.record(seconds, kind)
        own.places.add(videos, kind)
        own.exhausted_pages.add(int(exhausted), kind)
        facts = {"videos": videos, "position": position, "exhausted": exhausted}
        describe({**facts, "recorded": recorded})


def count_retry(code: str) -> None:
    """Count a transaction that runs again.

    Args:
        code: the SQLSTATE of the error, or SQLite's name of it.
    """
    if own := telemetry():
        own.retries.add(1, {"db.response.status_code": code})
