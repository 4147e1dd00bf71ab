"""The script that looks for rings of calls, against a rule in Python: whether there is one, and whether it is one."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.core.calls.ring import Ring
from tests.support.drawn_examples import times_factor
from tests.support.waiting_handlers import Places

AGENTS = "abcd"
WORKERS = ("w1", "w2", "w3")


@dataclass
class Model:
    """Which agents each worker serves, its slots, and the calls in which its handlers wait: caller and callee."""

    serves: dict[str, frozenset[str]]
    slots: dict[str, int]
    waits: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def is_free(self, worker: str) -> bool:
        """Whether a slot of the worker does not wait, as far as one knows."""
        return self.slots[worker] == 0 or len(self.waits.get(worker, ())) < self.slots[worker]

    def servers(self, agent: str) -> list[str]:
        """The workers that serve an agent."""
        return [worker for worker, agents in self.serves.items() if agent in agents]

    def needs(self, callee: str) -> set[str]:
        """The workers on whose slots the answer depends."""
        found: set[str] = set()
        agents = [callee]
        for agent in agents:
            for worker in self.servers(agent):
                found.add(worker)
                agents += [asked for _, asked in self.waits.get(worker, ()) if asked not in agents]
        return found

    def is_answered(self, callee: str) -> bool:
        """Whether a slot gets free for the callee some time, or nobody is known to serve it."""
        free = {one for one in AGENTS if not self.servers(one) or any(map(self.is_free, self.servers(one)))}
        while True:
            more = {
                one
                for one in AGENTS
                if any(asked in free for worker in self.servers(one) for _, asked in self.waits.get(worker, ()))
            }
            if more <= free:
                return callee in free
            free |= more

    def check(self, ring: Ring) -> None:
        """Each agent calls the next, or needs the slot that the next has."""
        assert ring.agents[0] == ring.agents[-1]
        pairs = zip(ring.agents, ring.agents[1:], ring.slots[1:], strict=False)
        calls = {wait for waits in self.waits.values() for wait in waits}
        for one, following, worker in pairs:
            if worker:
                assert one in self.serves[worker]
                assert following in [caller for caller, _ in self.waits[worker]]
            else:
                assert (one, following) in calls


def _workers() -> st.SearchStrategy[Model]:
    agents = st.frozensets(st.sampled_from(AGENTS), min_size=1)
    return st.builds(
        Model,
        st.fixed_dictionaries(dict.fromkeys(WORKERS, agents)),
        st.fixed_dictionaries({worker: st.sampled_from((1, 1, 1, 2, 0)) for worker in WORKERS}),
    )


_CALLS = st.lists(st.tuples(st.sampled_from(WORKERS), st.integers(0, 3), st.sampled_from(AGENTS)), max_size=8)


@settings(max_examples=times_factor(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(model=_workers(), calls=_CALLS)
def test_a_ring_is_found_where_there_is_one(redis_url: str, model: Model, calls: list[tuple[str, int, str]]) -> None:
    places = Places(redis_url)
    places.redis.flushdb()
    for worker, agents in model.serves.items():
        places.worker(worker, *agents, slots=model.slots[worker])
    for number, (worker, which, callee) in enumerate(calls):
        waiting = model.waits.setdefault(worker, [])
        if model.slots[worker] and len(waiting) == model.slots[worker]:
            continue
        caller = sorted(model.serves[worker])[which % len(model.serves[worker])]
        waiting.append((caller, callee))
        ring = places.ring(worker, caller, callee, str(number))
        expected = not model.is_answered(callee) and worker in model.needs(callee)
        assert (ring is not None) == expected
        if ring is not None:
            assert ring.agents[:2] == (caller, callee)
            model.check(ring)
    places.redis.close()
