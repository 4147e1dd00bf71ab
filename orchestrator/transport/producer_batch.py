"""Batches of a kombu producer: kombu's own since 5.7, and the same for kombu 5.6, which has none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kombu import exceptions as kombu_exceptions

if TYPE_CHECKING:
    from orchestrator.transport.batch import PublishBatch

#: kombu's largest batch unless told otherwise.
MAX_SIZE = 1000

if TYPE_CHECKING or hasattr(kombu_exceptions, "BatchPublishError"):
    from kombu.exceptions import BatchPublishError as BatchPublishError
else:

    class BatchPublishError(kombu_exceptions.KombuError):
        """A batch could not be published; what was accepted is unknown."""


def open_batch(producer: Any, max_size: int = MAX_SIZE) -> AbstractContextManager[Any]:
    """Collect what is published with ``producer``, and send it when the block ends; if the block raises, drop it.

    Returns:
        A context manager whose value has the ``producer``, ``state.session`` (a ``PublishBatch``; ``None`` before the
        first message) and ``flush()``.
    """
    own: Callable[[int], AbstractContextManager[Any]] | None = getattr(producer, "batch", None)
    return ProducerBatch(producer, max_size) if own is None else own(max_size)


class ProducerBatch:
    """The batch that ``kombu.Producer.batch()`` of kombu 5.7 returns, made of what a producer of kombu 5.6 has."""

    def __init__(self, producer: Any, max_size: int) -> None:
        self.producer = producer
        self.session: PublishBatch | None = None
        self._max_size = max_size
        self._publish: Callable[..., Any] = producer._publish

    @property
    def state(self) -> Self:
        """The place where kombu's batch has its session."""
        return self

    def __enter__(self) -> Self:
        self.producer._publish = self._collect
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None) -> None:
        del self.producer._publish
        if self.session is None:
            return
        try:
            if kind is None:
                self.session.flush()
            else:
                self.session.discard()
        finally:
            self.session.close()

    def flush(self) -> None:
        """Send what was collected. Raises as ``PublishBatch.flush``."""
        if self.session is not None:
            self.session.flush()

    def _collect(self, *args: Any, **kwargs: Any) -> Any:
        channel = self.producer.channel
        if self.session is None:
            self.session = channel.create_publish_batch(self._max_size)
        elif self.session.channel is not channel:
            raise RuntimeError("the producer's channel changed while a publish batch was open")
        with channel.collecting(self.session):
            return self._publish(*args, **kwargs)
