"""The life of one message of the load, as the witness saw it, and its story in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from chaos.witness import Row
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.registry.registry import Death


@dataclass(slots=True)
class Life:
    """The witness' rows of one message."""

    kind: str = ""
    intent_ms: int = 0
    countdown_ms: int = 0
    #: 0 is the most urgent.
    priority: int = 0
    accepted: bool = False
    uncertain: bool = False
    rows: list[Row] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)

    def of(self, *what: str) -> list[Row]:
        """Its rows of these kinds."""
        return [row for row in self.rows if row.what in what]

    @property
    def claimants(self) -> dict[int, str]:
        """Main processes that claimed it, with their incarnations."""
        return {row.pid: str(row.note["incarnation"]) for row in self.of("claimed")}

    def spans(self, strike: Row) -> bool:
        """Whether Redis, or all workers with their supervisor, were killed in its time."""
        kind, around = strike.note.get("kind"), [row.at_ms for row in self.rows]
        return kind in ("redis", "supervisor") and bool(around) and around[0] <= strike.at_ms <= around[-1] + 5000

    @property
    def done(self) -> bool:
        """Whether it was handled."""
        return any(row.what == "done" for row in self.rows)

    @property
    def unrecorded(self) -> int:
        """Of a message that is dead as poison: executions whose ends were not recorded, whether they had one or not.

        Each attempt but the last one was recorded once, or no other one would have followed.
        """
        starts = self.of("start")
        return len(starts) - max(0, len({row.attempt for row in starts}) - 1)


def died_ms(row: Row) -> int:
    """When a process ended: a ``strike`` is written after its kill."""
    return int(row.note.get("killed_ms", row.at_ms))


def describe(message_id: str, life: Life, strikes: Sequence[Row], deaths: Sequence[Death] = ()) -> str:
    """The life of a message, in order: who claimed and ran it, what was killed, and whose death was recorded when."""
    pids = {pid for row in life.of("start") for pid in (row.pid, row.parent_pid)} | life.claimants.keys()
    told = [(row.at_ms, _told(row)) for row in life.rows]
    told += [
        (row.at_ms, _told(row, held=message_id in row.note.get("held", ())))
        for row in strikes
        if pids & {row.pid, *row.note.get("pids", ())} or message_id in row.note.get("held", ()) or life.spans(row)
    ]
    told += [
        (death.at_ms, f"{death.incarnation} is on record as {death.reason}, by {death.by}")
        for death in deaths
        if death.incarnation in life.claimants.values()
    ]
    told += [
        (letter.at_ms, f"dead letter {letter.id}: {letter.reason}, deaths {list(letter.deaths)}")
        for letter in life.letters
    ]
    lines = [
        f"    {(at_ms - life.intent_ms) / 1000:8.3f} s  {text}" for at_ms, text in sorted(told, key=lambda one: one[0])
    ]
    return "\n".join([f"{message_id} ({life.kind or 'unknown'}, countdown {life.countdown_ms} ms)", *lines])


def _told(row: Row, *, held: bool = False) -> str:
    if row.what == "strike":
        return f"KILL {row.note.get('kind')} of {row.node} (pid {row.pid}){', held it' if held else ''}"
    if row.what == "claimed":
        return f"claimed by {row.note['incarnation']}{', to run alone' if row.note.get('alone') else ''}"
    where = f" attempt {row.attempt} on {row.node} (pid {row.pid} of {row.parent_pid})" if row.node else ""
    return f"{row.what}{where}"
