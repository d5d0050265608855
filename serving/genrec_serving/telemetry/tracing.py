"""OpenTelemetry: a span for each request and its stages, where an exporter is set up.

Where none is, spans are OpenTelemetry's own placeholders, which cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import propagate, trace
from opentelemetry.context import Context

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_tracer: trace.Tracer | None = None


def trace_to(exporter: SpanExporter, *, service: str) -> TracerProvider:
    """From now on, give spans to `exporter`; close the provider to send the last ones.

    Args:
        exporter: an OTLP exporter, or one in memory.
        service: as the traces name this server.
    """
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    global _tracer
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("genrec_serving")
    return provider


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Sends spans as protobuf over HTTP, for example to ``http://collector:4318/v1/traces``."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=endpoint)


def stop_tracing() -> None:
    """No spans any more."""
    global _tracer
    _tracer = None


def is_tracing() -> bool:
    """Whether spans go anywhere."""
    return _tracer is not None


@contextmanager
def span(name: str) -> Iterator[trace.Span]:
    """Trace the block as part of the request."""
    if _tracer is None:
        yield trace.INVALID_SPAN
        return
    with _tracer.start_as_current_span(name) as started:
        yield started


@contextmanager
def request_span(
    name: str, headers: Mapping[str, str], attributes: Mapping[str, str]
) -> Iterator[trace.Span]:
    """Trace the block as a request; it belongs to the trace that its headers name."""
    if _tracer is None:
        yield trace.INVALID_SPAN
        return
    parent: Context = propagate.extract(headers)
    with _tracer.start_as_current_span(
        name, context=parent, kind=trace.SpanKind.SERVER, attributes=dict(attributes)
    ) as started:
        yield started
