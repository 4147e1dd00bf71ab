"""Has a worker that includes this module keep what it claimed ahead for as long as no slot is free."""

from __future__ import annotations

from orchestrator.transport import claim_buffer

claim_buffer.HOLD_S = 3600.0
