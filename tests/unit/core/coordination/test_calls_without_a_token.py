"""A call that is never repeated, as in eager mode, leaves no answer."""

from __future__ import annotations

from orchestrator.core.coordination.lease import Kind, Life, NamedLease, Request


class Alive:
    """Owners of permits that all live."""

    def life(self, owner: str) -> Life:
        return Life.ALIVE

    def has_entry(self, owner: str, entry: str) -> bool:
        return True

    def reason(self, owner: str) -> str:
        return ""


def test_of_a_release_without_a_token_nothing_is_recorded() -> None:
    lease = NamedLease(Kind.LEASE)
    lease.acquire(Request("token", "owner"), 0, Alive())
    assert lease.release("token", 1, Alive(), reason="released")
    assert lease.last_calls == {}
