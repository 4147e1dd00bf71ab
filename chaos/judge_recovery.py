"""Judges how soon the messages of a killed worker ran elsewhere.

Only time in which another worker served counts: the one that was killed may have been the only one, as others start
after a kill of their supervisor.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from chaos.lives import Life, describe, died_ms
from chaos.witness import Row
from orchestrator.registry.registry import Death

#: Kinds of kill after which a worker serves on.
_SERVES_ON = ("child",)

#: Seconds from a SIGKILL until the victim's messages run elsewhere, above which the report names the case.
_PROMPT_S = 2.0


@dataclass(frozen=True, slots=True)
class Recovery:
    """A message that a worker held when it was killed, and that began elsewhere."""

    strike: Row
    message_id: str
    began_ms: int
    #: For how much of the time until then another worker served.
    served_s: float

    @property
    def after_s(self) -> float:
        """From the kill until it began."""
        return (self.began_ms - died_ms(self.strike)) / 1000


@dataclass(frozen=True, slots=True)
class _Service:
    """A worker that consumed from one time to another."""

    node: str
    pid: int
    from_ms: int
    until_ms: int


def recoveries(rows: Sequence[Row], lives: Mapping[str, Life]) -> list[Recovery]:
    """All of a run.

    Without those whose next holder was killed before it came to them, for they have a time of that kill; without those
    before whose start the supervisor was killed, and all workers with it; without retries of attempts that had failed
    before the kill, which wait in the mailbox; and without those that wait for all others by their sender's wish.
    """
    deaths = [row for row in rows if row.what in ("strike", "fell")]
    services = _services(rows)
    return [
        Recovery(strike, message_id, began_ms, _served_ms(services, strike, began_ms) / 1000)
        for strike in deaths
        if strike.what == "strike" and strike.note.get("kind") == "hard"
        for message_id, began_ms in _begun_again(strike, deaths, lives)
    ]


def _begun_again(strike: Row, deaths: Sequence[Row], lives: Mapping[str, Life]) -> Iterable[tuple[str, int]]:
    killed_ms, pids = died_ms(strike), set(strike.note["pids"])
    for message_id in strike.note["held"]:
        life = lives.get(message_id)
        begun = [row for row in life.of("start") if row.at_ms >= killed_ms and row.pid not in pids] if life else []
        if life is None or not begun or life.priority > 0:
            continue
        starts = [row.at_ms for row in begun]
        if _is_retry(life, min(begun, key=lambda row: row.at_ms), pids):
            continue
        held_by_others = (
            row
            for row in deaths
            if row is not strike and (message_id in row.note.get("held", ()) or row.note.get("kind") == "supervisor")
        )
        if not any(killed_ms < died_ms(row) <= min(starts) for row in held_by_others):
            yield message_id, min(starts)


def _is_retry(life: Life, start: Row, pids: Container[int]) -> bool:
    """Whether a start is the retry of an attempt that failed on the killed worker, which had recorded it."""
    return any(row.attempt == start.attempt - 1 and row.pid in pids for row in life.of("fail"))


def _services(rows: Sequence[Row]) -> list[_Service]:
    found: list[_Service] = []
    serving: dict[int, Row] = {}
    stopped: set[int] = set()

    def end(pid: int, at_ms: int) -> None:
        if (since := serving.pop(pid, None)) is not None:
            found.append(_Service(since.node, pid, since.at_ms, at_ms))

    for row in rows:
        kind = row.note.get("kind")
        if row.what == "serves" or (row.what == "continued" and row.pid in stopped):
            stopped.discard(row.pid)
            serving[row.pid] = row
        elif row.what == "strike" and kind == "supervisor":
            for pid in list(serving):
                end(pid, died_ms(row))
        elif row.what == "fell" or (row.what == "strike" and kind not in _SERVES_ON):
            if row.pid in serving and kind in ("stop", "freeze"):
                stopped.add(row.pid)
            end(row.pid, died_ms(row))
    for pid in list(serving):
        end(pid, rows[-1].at_ms)
    return found


def _served_ms(services: Iterable[_Service], strike: Row, began_ms: int) -> int:
    """For how long at least one other worker served, between a kill and the start of a message elsewhere."""
    served, at_ms = 0, died_ms(strike)
    for one in sorted(services, key=lambda service: service.from_ms):
        if one.pid != strike.pid and min(one.until_ms, began_ms) > max(one.from_ms, at_ms):
            served += min(one.until_ms, began_ms) - max(one.from_ms, at_ms)
            at_ms = min(one.until_ms, began_ms)
    return served


def tardy(
    found: Iterable[Recovery], rows: Sequence[Row], lives: Mapping[str, Life], deaths: Sequence[Death]
) -> Iterable[str]:
    """The stories of messages that began elsewhere only after a while."""
    services = _services(rows)
    strikes = [row for row in rows if row.what == "strike"]
    for one in found:
        if one.after_s > _PROMPT_S:
            life = lives[one.message_id]
            lines = [
                f"    {(service.from_ms - life.intent_ms) / 1000:8.3f} s  {service.node} (pid {service.pid}) serves, "
                f"until {(service.until_ms - life.intent_ms) / 1000:.3f} s"
                for service in services
                if service.until_ms >= died_ms(one.strike) and service.from_ms <= one.began_ms
            ]
            told = describe(one.message_id, life, strikes, deaths)
            head = f"{one.after_s:.2f} s after the kill of {one.strike.node}, in which another worker served for"
            yield "\n".join([f"{head} {one.served_s:.2f} s: {told}", *lines])
