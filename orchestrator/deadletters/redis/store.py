"""The dead-letter log in Redis. The transport adds letters, in the step that ends their deliveries."""

from __future__ import annotations

from orchestrator.deadletters.redis.editor import RedisLetterEditor
from orchestrator.deadletters.redis.reader import RedisLetterReader
from orchestrator.deadletters.redis.replayer import RedisLetterReplayer
from orchestrator.deadletters.redis.schedule import RedisReplaySchedule


class RedisDeadLetterStore(RedisLetterReader, RedisLetterEditor, RedisLetterReplayer, RedisReplaySchedule):
    """Implements :class:`~.store.DeadLetterStore`; every method raises :class:`BrokerUnavailable`."""
