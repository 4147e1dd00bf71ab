"""The dead-letter log in Redis. The transport adds letters, in the step that ends their deliveries."""

from __future__ import annotations

from orchestrator.deadletters.redis_editor import RedisLetterEditor
from orchestrator.deadletters.redis_reader import RedisLetterReader
from orchestrator.deadletters.redis_replayer import RedisLetterReplayer
from orchestrator.deadletters.redis_schedule import RedisReplaySchedule


class RedisDeadLetterStore(RedisLetterReader, RedisLetterEditor, RedisLetterReplayer, RedisReplaySchedule):
    """Implements :class:`~.store.DeadLetterStore`; every method raises :class:`BrokerUnavailable`."""
