"""The overrides of timeouts as a worker has them: read when a heartbeat reports that they have changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.core.keys import Keys
from orchestrator.core.log import get_logger
from orchestrator.core.policies.timeout_overrides import OverrideTable, overrides_in

logger = get_logger(__name__)


class ReadOverrides:
    """Keeps :attr:`table` up to date. Only the heartbeat's thread calls :meth:`after_heartbeat`."""

    def __init__(self, keys: Keys) -> None:
        self.table = OverrideTable()
        self._keys = keys
        self._version = 0

    def after_heartbeat(self, version: int, now_ms: int, call: Callable[..., Any]) -> None:
        """Read the overrides if their version is another one than before.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable; the next heartbeat reads them.
        """
        if version == self._version:
            return
        flat = call("HGETALL", self._keys.timeout_overrides) if version else []
        fields = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
        overrides = overrides_in(fields, now_ms)
        self.table, self._version = OverrideTable(overrides), version
        listed = ", ".join(f"{one.name}={one.timeout_s:g} s" for one in overrides) or "none"
        logger.info("timeouts overridden now: %s", listed)
