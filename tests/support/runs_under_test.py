"""A run driven by the scripts, on a real Redis, beside the same run in the pure rule."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from orchestrator.core.keys import GROUP, Keys
from orchestrator.core.workflows.expansion import steps_in_place, take_place
from orchestrator.core.workflows.plan import Kind, OnFailure, StepPlan, number_of, ranges_text
from orchestrator.core.workflows.run import Run
from orchestrator.core.workflows.run_calls import CALLER, CallList, calls_of
from orchestrator.core.workflows.run_state import Effects, RunState
from orchestrator.transport.redis import commands
from orchestrator.transport.redis import scripts as transport_scripts
from orchestrator.workflows.compiling.plan_writer import waits_of
from orchestrator.workflows.redis import scripts
from tests.support.agents_under_test import AGENTS, AgentsUnderTest, place_of, placed
from tests.support.redis_clock import KEY, timed
from tests.support.run_history import RunHistory

STEPS = ("returned-0", "0")
PLAIN = ("q0", "q1", "q2")
QUEUES = (*PLAIN, *AGENTS)
#: Deaths of its holders that make a message poison.
MAX_DEATHS = 3
COUNTS = ("open", "handled", "dead", "expired", "cancelled", "skipped", "failures", "undo_failures",
          "deploy_failures")  # fmt: skip
UID = "r"
_COMMANDS = ("start_run", "advance_run", "control_run", "place_steps")
_BUDGET = b"runs.BUDGET = 120\n"
_TEMPLATE = '{"headers":{"id":"@n:id@","task":"t","ignore_result":true,"orc":{"track":true}},"properties":{},"body":""}'
_DAY_MS = 86_400_000
#: When a message is due that a pause postpones: the year 9999.
_NEVER_MS = 253_402_300_800_000


class RunUnderTest:
    """One run, twice; each move is made in both, and :meth:`compare` finds what differs."""

    def __init__(self, redis: Any, plan: Mapping[str, StepPlan], on_failure: OnFailure, budget: int) -> None:
        self.redis, self.keys = redis, Keys()
        self.plan = plan
        self.history = RunHistory(plan)
        self.agents = AgentsUnderTest(redis, self.keys, STEPS)
        self.rule = Run(plan, on_failure, take_back=self._take_back, place=self._place, budget=budget)
        self.rule.is_down = self._is_down
        self.letters: dict[str, str] = {}
        self.now = 1_700_000_000_000
        self._budget = budget
        self._is_comparing = True
        self._shas: dict[str, str] = {}
        self._waiting: set[str] = set()
        self._known: set[str] = set()
        self._noted = 0
        self._moving = False
        #: How many of its holders have died while they had a step's message.
        self._deaths: Counter[str] = Counter()
        self._holder = 0
        #: The number of the next step that is added.
        self.next_number = self._declared = sum(number.isdigit() for number in plan)
        redis.flushdb()
        redis.set(KEY, self.now)
        self._write(on_failure)

    def _write(self, on_failure: OnFailure) -> None:
        key = self.keys.run(UID)
        run: dict[Any, Any] = {
            "id": "w", "name": "w", "state": "writing", "root": self.keys.root, "group": GROUP, "nonce": "n",
            "on_failure": on_failure.value, "total": self._declared, "keep_ms": _DAY_MS, "outcome_ttl_ms": _DAY_MS,
        }  # fmt: skip
        self.redis.hset(key, mapping=run)
        waits = waits_of(self.plan.items())
        self.redis.hset(f"{key}:plan", mapping={n: plan.to_text() for n, plan in self.plan.items()} | waits)
        self.redis.hset(f"{key}:templates", mapping={"0": _TEMPLATE} | self.agents.records("0"))
        for queue in QUEUES:
            for step in STEPS:
                self.redis.xgroup_create(self.keys.stream(queue, step), GROUP, "0", mkstream=True)

    # -- moves

    def start(self, deadline_ms: int | None) -> None:
        """Start the run."""
        roots = ranges_text(int(n) for n, plan in self.plan.items() if n.isdigit() and plan.dependencies == 0)
        self._workflow(scripts.start_run(self.keys, UID, "w", "f", roots, deadline_ms))
        self._apply(self.rule.start())

    def advance(self) -> None:
        """Go on with what is planned."""
        left = self._workflow(scripts.advance_run(self.keys, UID))
        self._apply(self.rule.advance())
        assert bool(left) == bool(self.rule.agenda)

    def claim(self, queue: str) -> bool:
        """A worker claims a message of a mailbox, if there is one; those that are due come first."""
        reply = self._transport(commands.claim(self.keys, [queue], STEPS, f"w{self._holder}", 1))
        self._look()
        return len(reply) > 1

    def held(self) -> list[tuple[str, str, str, str]]:
        """Queue, stream, entry and step of each claimed message."""
        streams = [(queue, self.keys.stream(queue, name)) for queue in QUEUES for name in STEPS]
        with self.redis.pipeline(transaction=False) as pipe:
            for _, stream in streams:
                pipe.xpending_range(stream, GROUP, "-", "+", 1000)
            pending = [
                (queue, stream, one["message_id"])
                for (queue, stream), of in zip(streams, pipe.execute(), strict=True)
                for one in of
            ]
            for _, stream, entry in pending:
                pipe.xrange(stream, entry, entry)
            entries = pipe.execute()
        return [
            (queue, stream, entry.decode(), _step_of(fields[b"m"]))
            for (queue, stream, entry), [(_, fields)] in zip(pending, entries, strict=True)
        ]

    def queues_with_messages(self) -> list[str]:
        """The mailboxes in which a message is to be claimed, or is due."""
        with self.redis.pipeline(transaction=False) as pipe:
            for queue in QUEUES:
                for name in STEPS:
                    stream = self.keys.stream(queue, name)
                    pipe.xlen(stream).xpending(stream, GROUP)
                pipe.zcount(self.keys.delayed(queue), "-inf", self.now)
            found = iter(pipe.execute())
        claimable = {queue: sum(next(found) - next(found)["pending"] for _ in STEPS) + next(found) for queue in QUEUES}
        return [queue for queue in QUEUES if claimable[queue]]

    def settle(self, held: tuple[str, str, str, str], outcome: str, result: Any) -> None:
        """A claimed message ends."""
        queue, stream, entry, step = held
        self.agents.left(queue)
        wire: dict[str, Any] = {"outcome": outcome, "attempts": 1}
        if outcome in ("dead", "deployment"):
            reason = "deployment" if outcome == "deployment" else "error"
            call = commands.dead_letter(
                self.keys,
                queue,
                stream,
                entry,
                "{}",
                reason,
                "E",
                delivery=f"{UID}.{step}",
                outcome=json.dumps({"outcome": "dead", "reason": reason}),
                ttl_ms=_DAY_MS,
            )
            self.letters[step] = self._transport(call).decode()
            wire = {"outcome": "dead", "reason": reason, "letter_id": self.letters[step]}
        else:
            wire |= {"result": result} if outcome == "handled" else {}
            self._record_outcome(held, wire)
        self._ended(step, wire)

    def _record_outcome(self, held: tuple[str, str, str, str], wire: dict[str, Any]) -> None:
        queue, stream, entry, step = held
        ledger, key = self.keys.ledger(queue), self.keys.outcome(f"{UID}.{step}")
        outcome = wire["outcome"]
        self._transport(commands.settle_with_outcome(stream, ledger, key, entry, outcome, json.dumps(wire), _DAY_MS))

    def _add_steps(self, step: str, new: dict[str, StepPlan]) -> None:
        # The plan is written before the outcome of the step whose handler has asked for them.
        self.rule.add_steps(new)
        self.plan = self.history.plan = self.rule.plan
        texts = {number: plan.to_text() for number, plan in new.items()}
        self.redis.hset(f"{self.keys.run(UID)}:plan", mapping=texts | waits_of(self.rule.plan.items()))
        self.redis.hset(self.keys.outcome_hooks(f"{UID}.{step}"), "expand", "1")

    def expand(self, held: tuple[str, str, str, str], steps: list[dict[str, Any]]) -> None:
        """A claimed message ends, and steps take its place."""
        queue, _, _, step = held
        self.agents.left(queue)
        first = self.next_number
        new = expansion_of(step, self.rule.plan[number_of(step)], first, steps)
        self.next_number = first + len(steps) + 1
        self._add_steps(step, new)
        final = {"$orc": {"steps": ranges_text(range(first, self.next_number - 1)), "path": []}}
        expanded = {"first": first, "count": self.next_number - first, "final": final}
        wire = {"outcome": "handled", "attempts": 1, "result": None, "expanded": expanded}
        self._record_outcome(held, wire)
        self._ended(step, wire)

    def suspend(self, held: tuple[str, str, str, str], calls: list[dict[str, Any]], *, stale: bool) -> None:
        """A claimed message of a workflow function ends with calls; if they are ``stale``, they come too late."""
        queue, _, _, step = held
        first, self.next_number = self.next_number, self.next_number + len(calls)
        plan = plan_of(calls, first)
        new = plan | calls_of(step, first, [plan[str(first + at)] for at in range(len(calls))])
        self._add_steps(step, new)
        # Only a replayed letter's execution can be late: it is not the one that the run waits for.
        is_late = stale and self.rule.states.get(step, "")[:1] != "s"
        after = CallList.from_text(self.rule.calls.get(step)).entries + is_late
        entries = [["now", 1], *([f"call {number}"] for number in range(len(calls)))]
        suspended = {"first": first, "count": len(calls), "after": after, "entries": entries}
        wire = {"outcome": "handled", "attempts": 1, "result": None, "suspended": suspended}
        self._record_outcome(held, wire)
        self._deaths.pop(step, None)
        self.agents.left(queue)
        self.history.suspended(step)
        self._apply(self.rule.step_ended(step, wire))

    def retry(self, held: tuple[str, str, str, str]) -> None:
        """An attempt fails, and is to be tried again."""
        queue, stream, entry, step = held
        [(_, fields)] = self.redis.xrange(stream, entry, entry)
        is_marked = self._is_marked(step)
        call = commands.retry(
            self.keys, queue, stream, entry, f"0|{entry}", fields[b"m"], 1000, ttl_ms=_DAY_MS, delivery=f"{UID}.{step}"
        )
        self._transport(call)
        if not is_marked and not self.rule.has_ended:
            due_ms = self.redis.zscore(self.keys.delayed(queue), f"0|{entry}")
            assert (due_ms == _NEVER_MS) is self.rule.paused, f"{step} is due at {due_ms}"
        self._returned(queue, step, is_marked)

    def requeue(self, held: tuple[str, str, str, str]) -> None:
        """A worker stops, and requeues what it holds."""
        queue, stream, entry, step = held
        is_marked = self._is_marked(step)
        self._transport(commands.requeue_held(self.keys, queue, stream, [entry], max_deaths=3, ttl_ms=_DAY_MS, by="w"))
        self._returned(queue, step, is_marked)

    def die(self) -> None:
        """The worker that holds all claimed messages is killed, and a sweep finds it."""
        held, worker = self.held(), f"w{self._holder}"
        self._holder += 1
        for _, stream, entry, _ in held:
            self.redis.xclaim(stream, GROUP, worker, 0, [entry], retrycount=2, justid=True)
        fields = {"reason": "killed", "queues": json.dumps(QUEUES)}
        self.redis.hset(self.keys.incarnation(worker), mapping=fields)
        self.redis.zadd(self.keys.dying, {worker: self.now})
        marked = {step: self._is_marked(step) for *_, step in held}
        call = commands.reclaim(
            self.keys, worker, STEPS, max_deaths=MAX_DEATHS, ttl_ms=_DAY_MS, batch=1000, linger_ms=0,
            death_hooks_done=None,
        )  # fmt: skip
        self._transport(call)
        with self._compared_once():
            for queue, _, _, step in held:
                self._deaths[step] += 1
                if self._deaths[step] >= MAX_DEATHS:
                    self._poisoned(queue, step)
                elif marked[step]:
                    self._returned(queue, step, True)

    def _poisoned(self, queue: str, step: str) -> None:
        outcome = json.loads(self.redis.lindex(self.keys.outcome(f"{UID}.{step}"), -1))
        assert outcome["reason"] == "poison"
        self.letters[step] = outcome["letter_id"]
        self.agents.left(queue)
        self._ended(step, outcome)

    @contextmanager
    def _compared_once(self) -> Iterator[None]:
        """Compare at the end: a script has made several moves."""
        self._is_comparing = False
        yield
        self._is_comparing = True
        self._look()
        self.compare()

    def place_again(self) -> None:
        """A sweep places steps again."""
        down = [agent for agent in AGENTS if agent not in self.agents.slots]
        was_over = self.rule.has_ended
        # The script looks through the run once for all agents that are down.
        agent = next((one for one in down if self.redis.exists(self.keys.runs_placed(one))), "")
        self._workflow(scripts.place_steps(self.keys, UID, agent))
        if not was_over:
            self._apply(self.rule.place_again(is_down=bool(agent)))

    def _returned(self, queue: str, step: str, is_marked: bool) -> None:
        if is_marked:
            self.agents.left(queue)
            self._ended(step, {"outcome": "cancelled", "by": "its run was cancelled"})
        else:
            self._look()

    def replay(self, step: str) -> None:
        """A dead letter is replayed, unless the run refuses it."""
        _, refusals, *_ = self._transport(commands.replay(self.keys, "0", [self.letters[step]], audit_id=""))
        why = self.rule.why_not_replayed(step)
        assert [reasons[0].decode() for _, reasons, _ in refusals or ()] == ([why] if why else [])
        if why:
            return
        del self.letters[step]
        self.rule.replayed.add(step)
        self.history.replayed(step)
        self._look()

    def control(self, action: str, value: str = "", payload: str = "") -> str:
        """Pause, resume, cancel or post."""
        said, _ = self._workflow(scripts.control_run(self.keys, UID, action, value, payload))
        rule = self.rule
        if rule.has_ended:
            assert said == b"too late"
            return "too late"
        if action == "pause" and not rule.paused:
            self.history.paused = True
            self._apply(rule.pause())
        elif action == "resume" and rule.paused:
            self.history.paused = False
            self._apply(rule.resume())
        elif action == "cancel" and rule.state in (RunState.RUNNING, RunState.STOPPING):
            self._cancelled(value == "1")
        elif action == "post":
            self._apply(rule.happened(value, json.loads(payload)))
        return str(said.decode())

    def retry_step(self, step: str) -> None:
        """The user has a step begin again."""
        said, _ = self._workflow(scripts.control_run(self.keys, UID, "retry", step))
        expected, effects = self.rule.retry(step)
        assert said.decode() == expected
        if expected == "done":
            self.history.retried(step)
            for caller in self._callers(step):
                self.history.resumes(caller)
            self._apply(effects)

    def compensate(self) -> None:
        """The user wants a failed run to be compensated."""
        said, _ = self._workflow(scripts.control_run(self.keys, UID, "compensate"))
        expected, effects = self.rule.compensate_failed()
        assert said.decode() == expected
        if expected == "done":
            self._apply(effects)

    def time_passes(self, ms: int) -> None:
        """It is later, and a sweep acts on what is due."""
        self.now += ms
        self.redis.set(KEY, self.now)
        for member in self._transport(commands.due_timers(self.keys, skip=0, most=200)):
            step = member.decode().split(":", 2)[2]
            self._workflow(scripts.control_run(self.keys, UID, "time", step))
            if self.rule.has_ended:
                continue
            if step != "deadline":
                self._apply(self.rule.time_came(step))
            elif self.rule.state in (RunState.RUNNING, RunState.STOPPING):
                self._cancelled(self.rule.on_failure is OnFailure.COMPENSATE)

    def _cancelled(self, compensate: bool) -> None:
        self.history.paused, self.history.cancelled = False, True
        self._apply(self.rule.cancel(compensate=compensate))

    def _ended(self, step: str, wire: Mapping[str, Any]) -> None:
        self._deaths.pop(step, None)
        self.history.ended(step, wire["outcome"])
        self._apply(self.rule.step_ended(step, wire))

    def _is_marked(self, step: str) -> bool:
        return bool(self.redis.hexists(self.keys.outcome_hooks(f"{UID}.{step}"), "cancel"))

    # -- both alike

    def _take_back(self, step: str, _cancelled: bool) -> bool:
        is_there = step not in self._known or step in self._waiting
        if self._moving:
            is_there = is_there or step in self.agents.came_back
        if is_there:
            self._note_sends(self.rule._effects)
            self.history.taken_back(step, moved=self._moving)
            if step in self.rule.placed:
                self.agents.left(AGENTS[self.rule.placed[step]])
        self._moving = False
        return is_there

    def _callers(self, step: str) -> list[str]:
        """The workflow functions that wait for a step."""
        found: list[str] = []
        while (caller := self.plan[number_of(step)].options.get(CALLER)) is not None:
            found.append(caller)
            step = caller
        return found

    def _place(self, _step: str) -> int | None:
        return self.agents.place()

    def _is_down(self, step: str) -> bool:
        self._moving = AGENTS[self.rule.placed[step]] not in self.agents.slots
        return self._moving

    def _note_sends(self, effects: Effects) -> None:
        for step in effects.send[self._noted :]:
            if step in self.rule.calls:
                self.history.resumes(step)
            self.history.sent(step, self.rule.states)
        self._noted = len(effects.send)

    def _apply(self, effects: Effects) -> None:
        self._note_sends(effects)
        self._noted = 0
        self.history.paused = self.rule.paused
        if self._is_comparing:
            self._look()
            self.compare()

    def _look(self) -> None:
        """Which messages are where they were put, and no worker has them."""
        states = self.states()
        self.agents.look(UID)
        self._known = {step for step, state in states.items() if state[0] == "s"}
        self._waiting = set()
        for step in self._known:
            stream = self.keys.stream(self._queue_of(step, states[step]), "0")
            entry = states[step][1:].partition(",")[0]
            is_pending = self.redis.xpending_range(stream, GROUP, entry, entry, 1)
            if self.redis.xrange(stream, entry, entry) and not is_pending:
                self._waiting.add(step)

    def _queue_of(self, step: str, state: str) -> str:
        place = place_of(state)
        return self.plan[number_of(step)].queue if place is None else AGENTS[place]

    def states(self) -> dict[str, str]:
        """The state of each step, in the script."""
        raw: Any = self.redis.hgetall(f"{self.keys.run(UID)}:states")
        return {step.decode(): state.decode() for step, state in raw.items()}

    def compare(self) -> None:
        """Assert that both runs are alike."""
        rule, key = self.rule, self.keys.run(UID)
        raw: Any = self.redis.hgetall(key)
        run = {name.decode(): value.decode() for name, value in raw.items()}
        assert run["state"] == rule.state
        assert (run.get("paused") == "1", "ended_ms" in run) == (rule.paused, rule.has_ended)
        stored = self.states()
        states = {step: "s" if state[0] == "s" else state for step, state in stored.items()}
        assert states == rule.states
        for step, state in stored.items():
            if (place := place_of(state)) is not None:
                assert rule.placed[step] == place, f"{step} was placed with {place}, not {rule.placed[step]}"
        unplaced = [step.decode() for step in self.redis.zrange(f"{key}:unplaced", 0, -1)]
        assert unplaced == list(rule.unplaced)
        added = steps_in_place(rule.plan, rule.states)
        assert int(run["total"]) == self._declared + sum(map(len, added.values()))
        assert {name: int(run.get(name, 0)) for name in COUNTS} == {name: rule.counts[name] for name in COUNTS}
        out = sum(state[0] in "sun" for state in states.values())
        assert rule.counts["open"] == out
        maps: Any = self.redis.hgetall(f"{key}:maps")
        assert {m.decode(): [int(n) for n in of.split(b",")] for m, of in maps.items()} == rule.maps
        calls: Any = self.redis.hgetall(f"{key}:calls")
        assert {step.decode(): text.decode() for step, text in calls.items()} == rule.calls
        lists = [self._list(f"{key}:{part}") for part in ("ready", "undo", "agenda", "ended")]
        agenda = [f"{kind}:{step}:{at}" for kind, step, at in rule.agenda]
        ended = [rule.state.value] if rule.has_ended else []
        assert lists == [list(rule.ready), rule.undo, agenda, ended]
        outcomes: Any = self.redis.hgetall(f"{key}:outcomes")
        found = {step.decode(): json.loads(outcome) for step, outcome in outcomes.items()}
        assert {step: _gist(outcome) for step, outcome in found.items()} == {
            step: _gist(outcome) for step, outcome in rule.outcomes.items()
        }
        self._compare_timers(states)
        self._compare_order()
        if rule.has_ended:
            for name in self.redis.keys(f"{key}*"):
                assert self.redis.pttl(name) > 0, f"{name!r} does not expire"

    def _compare_timers(self, states: Mapping[str, str]) -> None:
        timers = {member.decode().split(":", 2)[2] for member in self.redis.zrange(self.keys.timers, 0, -1)}
        waits = {step for step, state in states.items() if state == "u" and "ms" in self.plan[step].options}
        unplaced = [step for step, state in states.items() if state == "n"]
        waits |= {step for step in unplaced if "within_ms" in self.plan[number_of(step)].options}
        assert timers - {"deadline"} == waits

    def _compare_order(self) -> None:
        """What was sent lies in its stream in the order in which the rule sent it."""
        sent = [step for kind, step in self.history.log if kind == "sent"]
        last = {step: place for place, step in enumerate(sent)}
        for queue in QUEUES:
            entries: Any = self.redis.xrange(self.keys.stream(queue, "0"))
            current = {
                state[1:].partition(",")[0]: step
                for step, state in self.states().items()
                if state[0] == "s" and self._queue_of(step, state) == queue
            }
            steps = [current[entry.decode()] for entry, _ in entries if entry.decode() in current]
            assert steps == sorted(steps, key=last.__getitem__)

    def check_ledgers(self) -> None:
        """Assert that each accepted message has an outcome, or is there."""
        for queue in QUEUES:
            raw: Any = self.redis.hgetall(self.keys.ledger(queue))
            counts = {name.decode(): int(value) for name, value in raw.items()}
            pending = sum(self.redis.xlen(self.keys.stream(queue, step)) for step in STEPS)
            pending += self.redis.zcard(self.keys.delayed(queue))
            ended = sum(counts.get(name, 0) for name in ("handled", "dead", "expired", "cancelled"))
            assert counts.get("accepted", 0) == ended + pending
            assert counts.get("duplicated", 0) == 0

    def _list(self, key: str) -> list[str]:
        return [item.decode() for item in self.redis.lrange(key, 0, -1)]

    def _workflow(self, call: Any) -> Any:
        script, keys, args = call
        package = "orchestrator.workflows"
        [name] = [name for name in _COMMANDS if transport_scripts.script_of(package, name) == script]
        return self._run(package, name, keys, args)

    def _transport(self, call: Any) -> Any:
        return self._run("orchestrator.transport.redis", *call)

    def _run(self, package: str, name: str, keys: list[str], args: list[Any]) -> Any:
        if name not in self._shas:
            text = timed(transport_scripts.command(name, package), package)
            assert text.count(_BUDGET) == text.count(b"runs.BUDGET =")
            self._shas[name] = self.redis.script_load(text.replace(_BUDGET, b"runs.BUDGET = %d\n" % self._budget))
        reply = self.redis.evalsha(self._shas[name], len(keys), *keys, *args)
        return reply[1] if isinstance(reply, list) and reply[:1] == [b"events"] else reply


def _step_of(message: bytes) -> str:
    return str(json.loads(message)["headers"]["id"].removeprefix(f"{UID}."))


def _gist(outcome: Mapping[str, Any]) -> tuple[Any, ...]:
    return outcome["outcome"], outcome.get("result"), outcome.get("error"), outcome.get("letter_id")


def expansion_of(owner: str, replaced: StepPlan, first: int, steps: list[dict[str, Any]]) -> dict[str, StepPlan]:
    """The steps that take the place of one, as its run's plan has them."""
    plan = plan_of(steps, first)
    own = [plan[str(first + at)] for at in range(len(steps))]
    errbacks = {first + at for at, step in enumerate(steps) if step.get("errback_of")}
    ends = [first + at for at, one in enumerate(own) if not one.dependents and first + at not in errbacks]
    undo = {number: one for number, one in plan.items() if not number.isdigit()}
    return take_place(owner, replaced, first, own, ends, errbacks) | undo


def plan_of(steps: list[dict[str, Any]], first: int = 0) -> dict[str, StepPlan]:
    """A plan of steps that are given as fields of :class:`StepPlan`.

    ``needs`` is set of one that says what it needs instead of an agent (``soon``: it fails if it is not placed soon);
    ``after`` has their dependencies, and ``errback_of`` the steps whose errback one is.
    """
    dependents: list[list[int]] = [[] for _ in steps]
    for number, step in enumerate(steps):
        for before in step["after"]:
            dependents[before].append(first + number)
    guarded = [False] * len(steps)
    for at in reversed(range(len(steps))):
        later = [one - first for one in dependents[at]]
        guarded[at] = any(steps[one]["when"] != "all_handled" or guarded[one] for one in later)
    plan = {}
    for at, step in enumerate(steps):
        number, options = first + at, dict(step["options"])
        if "over" in options:
            options["over"] = str(first + int(options["over"]))
        calls = [first + one for one, other in enumerate(steps) if at in other.get("errback_of", ())]
        if calls:
            options["errbacks"] = ranges_text(calls)
        has_undo = step["undo"] and step["kind"] in (Kind.TASK, Kind.MAP)
        waits_for = len(step["after"]) + len(step.get("errback_of", ())[:1])
        plan[str(number)] = StepPlan(
            name=f"s{number}", kind=step["kind"], dependencies=waits_for, when=step["when"],
            guarded=guarded[at], undo=has_undo, dependents=tuple(dependents[at]), options=options,
            template="0", queue=PLAIN[number % len(PLAIN)], level="0",
        )  # fmt: skip
        undo = StepPlan(f"s{number}.undo", template="0", queue=PLAIN[number % 3], level="0")
        if step.get("needs") and step["kind"] in (Kind.TASK, Kind.MAP):
            fails = step["needs"] == "soon"
            plan[str(number)] = replace(plan[str(number)], **placed(plan[str(number)], fails=fails))
            undo = replace(undo, **placed(undo, fails=fails))
        if has_undo:
            plan[f"u{number}"] = undo
    return plan
