"""Agents with which steps of a run are placed: which of them live, and what waits for them."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.core.keys import GROUP, Keys
from orchestrator.core.workflows.placement import Candidate, PlacementRecord, least_loaded
from orchestrator.core.workflows.plan import StepPlan

#: Each has a mailbox of its name.
AGENTS = ("a0", "a1", "a2")
#: The numbers of the placements: one for steps that wait for ever, and one for those that do not.
WAITS, FAILS = "pw", "pf"
WITHIN_MS = 300
NEEDS = ["ocr"]


def placed(plan: StepPlan, *, fails: bool) -> dict[str, Any]:
    """What is different in the plan of a step that says what it needs."""
    options = {**plan.options, "needs": NEEDS} | ({"within_ms": WITHIN_MS} if fails else {})
    return {"options": options, "template": FAILS if fails else WAITS, "queue": "", "level": ""}


class AgentsUnderTest:
    """Beside the rule, what the script finds in Redis."""

    def __init__(self, redis: Any, keys: Keys, levels: tuple[str, ...]) -> None:
        self.redis, self._keys, self._levels = redis, keys, levels
        self.slots: dict[str, int] = {}
        #: Messages in each mailbox, as they were before the present move, and as it has changed them.
        self.loads = dict.fromkeys(AGENTS, 0)
        #: Steps whose message was claimed and has come back unbegun.
        self.came_back: set[str] = set()

    def records(self, template: str) -> dict[str, str]:
        """The placements as the run keeps them."""
        candidates = tuple(Candidate(agent, template, agent, "0") for agent in AGENTS)
        ways = {WAITS: None, FAILS: WITHIN_MS}
        return {
            name: PlacementRecord(tuple(NEEDS), candidates, self._levels, ms).to_text() for name, ms in ways.items()
        }

    def lives(self, agent: str, slots: int) -> None:
        """An incarnation of an agent lives, with that many slots."""
        self.slots[agent] = slots
        self.redis.hset(self._keys.hosts(agent), f"i-{agent}", slots)
        self.redis.zadd(self._keys.leases, {f"i-{agent}": 1})

    def dies(self, agent: str, *, was_fenced: bool) -> None:
        """It dies; whoever ended it knew of hosts, or did not."""
        self.slots.pop(agent, None)
        self.redis.zrem(self._keys.leases, f"i-{agent}")
        if was_fenced:
            self.redis.hdel(self._keys.hosts(agent), f"i-{agent}")

    def place(self) -> int | None:
        """The place of the candidate that gets a step now."""
        loads = [self.loads[agent] / self.slots[agent] if agent in self.slots else None for agent in AGENTS]
        place = least_loaded(loads)
        if place is not None:
            self.loads[AGENTS[place]] += 1
        return place

    def left(self, queue: str) -> None:
        """A message leaves a mailbox."""
        if queue in self.loads:
            self.loads[queue] -= 1

    def look(self, uid: str) -> None:
        """Read what is in the mailboxes."""
        self.came_back = set()
        with self.redis.pipeline(transaction=False) as pipe:
            for agent in AGENTS:
                for level in self._levels:
                    pipe.xlen(self._keys.stream(agent, level))
                stream = self._keys.stream(agent, "returned-0")
                pipe.xpending_range(stream, GROUP, "-", "+", 1000).xrange(stream)
            found = iter(pipe.execute())
        for agent in AGENTS:
            self.loads[agent] = sum(next(found) for _ in self._levels)
            held = {one["message_id"] for one in next(found)}
            for entry, fields in next(found):
                if entry not in held and b"d" not in fields:
                    step = json.loads(fields[b"m"])["headers"]["id"].removeprefix(f"{uid}.")
                    self.came_back.add(step)


def place_of(state: str) -> int | None:
    """The place of the candidate that a step was sent to, by its state; ``None`` if it says its agent itself."""
    place = state.partition(",")[2] if state[0] == "s" else ""
    return int(place) - 1 if place else None
