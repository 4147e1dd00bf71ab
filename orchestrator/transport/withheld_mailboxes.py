"""Logs that a worker gets no messages of an agent that other workers, but not this one, declare as a singleton."""

from __future__ import annotations

import json
from collections.abc import Collection

from orchestrator.core.log import get_logger
from orchestrator.transport.options import Options

logger = get_logger(__name__)


class WithheldMailboxes:
    """The mailboxes that only the leader of an election may claim from, which this worker is not."""

    def __init__(self, options: Options) -> None:
        self._options = options
        #: As of the last claim.
        self.queues: Collection[str] = ()

    def after_claim(self, withheld: Collection[str], incarnation: str) -> None:
        """Log those of this claim that were not withheld before."""
        before, self.queues = self.queues, withheld
        if withheld == before or self._options.describe is None:
            return
        fields = self._options.describe()
        hosted, declared = (json.loads(fields.get(name, "[]")) for name in ("agents", "singletons"))
        for agent in sorted(set(withheld) - set(before)):
            if agent in hosted and agent not in declared:
                logger.warning(
                    "agent %s: incarnation %s declares singleton = False, but another worker declares"
                    " singleton = True: this one takes no part in the election and claims none of the agent's messages,"
                    " as long as that one lives; `orchestrator elections` shows the leader",
                    agent, incarnation,
                )  # fmt: skip
