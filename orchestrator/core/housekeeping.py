"""The mailbox and the message by which beat starts the monitor manager's housekeeping."""

from __future__ import annotations

from typing import Final

#: The manager's mailbox. It holds one message at most: a second one that waits would add nothing.
HOUSEKEEPING_QUEUE: Final = "monitor-manager"

#: The ``task`` header of the message. No task of that name is registered.
HOUSEKEEPING_MESSAGE: Final = "orchestrator.housekeeping"
