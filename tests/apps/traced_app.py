"""An app whose worker makes traces: its handler tells which trace it is in."""

from __future__ import annotations

from celery import Celery
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from orchestrator import Agent, Context, Exponential, Message, Orchestrator, Retry, handles, load_settings


class Where(Message):
    """Fails this often, then tells."""

    failures: int = 0


class Further(Message):
    """Tells which trace it is in, and has its agent send it on to where it fails."""

    again: bool = True


class Guide(Agent):
    name = "guide"
    retry = Retry(max_retries=2, backoff=Exponential(initial_s=0.01, cap_s=0.02))

    @handles(Where)
    def where(self, message: Where, context: Context) -> list[str]:
        if context.attempt <= message.failures:
            raise ConnectionError(f"attempt {context.attempt}")
        here = trace.get_current_span().get_span_context()
        return [f"{here.trace_id:x}", f"{here.span_id:x}"]

    @handles(Further, priority=3)
    def further(self, message: Further, context: Context) -> str:
        if message.again:
            context.send_self(Further(again=False))
            return f"{trace.get_current_span().get_span_context().trace_id:x}"
        raise ConnectionError("for the record")


def make(url: str | None = None, *, eager: bool = False) -> Orchestrator:
    celery = Celery("traced", broker=url, set_as_current=False)
    celery.conf.task_always_eager = eager
    orchestrator = Orchestrator(celery, load_settings())
    orchestrator.host(Guide)
    return orchestrator


trace.set_tracer_provider(TracerProvider())
orchestrator = make()
app = orchestrator.app
