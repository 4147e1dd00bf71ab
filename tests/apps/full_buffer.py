"""Has a worker that includes this module claim some messages with each claim, and keep them until a slot is free."""

from __future__ import annotations

from typing import Any

from orchestrator.transport import claim_ahead, claim_buffer

#: Otherwise as many as the worker runs in 50 ms, which may be none on a busy machine.
CLAIMED_AHEAD = 5

_claim_ahead: Any = claim_ahead.ClaimAhead
_claim_ahead.count = CLAIMED_AHEAD
claim_buffer.HOLD_S = 3600.0
