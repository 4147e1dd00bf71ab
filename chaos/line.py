"""Has the witness see who stands in line for a permit, and who is granted it, in every process of a run."""

from __future__ import annotations

from chaos.witness import witness
from orchestrator.coordination.named_leases import Grant, Wanted
from orchestrator.coordination.redis_named_leases import RedisNamedLeases

#: Requests of this process that are not over: whether each is known to stand in line.
_in_line: dict[str, bool] = {}


def watch_lines() -> None:
    """Write a row before a request that waits, after the answer that it stands in line, and after its grant."""
    ask = RedisNamedLeases.ask

    def watched(self: RedisNamedLeases, wanted: Wanted, token: str, left_s: float) -> Grant | None:
        if not wanted.wait_s:
            return ask(self, wanted, token, left_s)
        name = f"{wanted.kind.value}:{wanted.name}"
        is_new = token not in _in_line
        if is_new:
            _in_line[token] = False
            witness().write("requests", token=token, name=name, owner=wanted.owner.id)
        grant = ask(self, wanted, token, left_s)
        if grant is None and not _in_line[token]:
            _in_line[token] = True
            witness().write("in line", token=token, name=name)
        elif grant is not None and (is_new or _in_line[token]):
            # Candidates go on asking while they lead.
            _in_line[token] = False
            witness().write("granted", token=token, name=name, fence=grant.fence)
        return grant

    setattr(RedisNamedLeases, "ask", watched)  # noqa: B010
