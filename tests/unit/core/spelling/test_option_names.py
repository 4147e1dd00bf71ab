"""A misspelt option of a policy is named, with those that there are and the nearest of them."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrator import (
    Breaker,
    Bulkhead,
    Concurrency,
    Constant,
    Exponential,
    Hedge,
    InvalidPolicy,
    Limit,
    Linear,
    Mailbox,
    Needs,
    Orchestrator,
    Quorum,
    Retry,
    Stale,
    Weighted,
    Workflow,
)
from orchestrator.core.spelling.option_names import named_arguments
from tests.apps import agents_app
from tests.support.cluster import NO_REDIS

MISSPELT: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (Retry, {"nevr": ("ValueError",)}, "allowed: max_retries, backoff, never, on; did you mean 'never'?"),
    (Exponential, {"intial_s": 1}, "did you mean 'initial_s'?"),
    (Linear, {"steps_s": 1}, "did you mean 'step_s'?"),
    (Constant, {"delay": 1}, "did you mean 'delay_s'?"),
    (Hedge, {"after_s": 1, "mots": 2}, "did you mean 'most'?"),
    (Mailbox, {"limit": 1, "overflows": "reject"}, "did you mean 'overflow'?"),
    (Breaker, {"failure_rates": 0.5}, "did you mean 'failure_rate'?"),
    (Bulkhead, {"call": 1}, "did you mean 'calls'?"),
    (Concurrency, {"limits": 1}, "did you mean 'limit'?"),
    (Stale, {"max_ages": 1}, "did you mean 'max_age_s'?"),
    (Quorum, {"approval": 1}, "did you mean 'approvals'?"),
    (Weighted, {"weight": {}}, "did you mean 'weights'?"),
    (Needs, {"max_laod": 1}, "allowed: max_load, host; did you mean 'max_load'?"),
    (Limit, {"runnings": 1}, "did you mean 'running'?"),
    (Workflow, {"name": "a", "retries": 3}, "allowed: name, on_failure, max_running"),
]


@pytest.mark.parametrize(("policy", "options", "text"), MISSPELT, ids=lambda value: getattr(value, "__name__", ""))
def test_a_misspelt_option_is_named_with_the_nearest(
    policy: Callable[..., Any], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(TypeError, match=r"\(\) got an unexpected keyword argument '") as error:
        policy(**options)
    assert str(error.value).endswith(text)


def test_what_is_like_nothing_is_named_with_those_that_are_allowed() -> None:
    with pytest.raises(TypeError, match=r"allowed: calls, wait_s$"):
        Bulkhead(zzz=1)  # type: ignore[call-arg]


VERBS: dict[str, tuple[Callable[[Orchestrator], Any], str]] = {
    "call": (lambda o: o.call("a", timeuot_s=2), "'timeout_s'"),  # type: ignore[call-arg]
    "ask_all": (lambda o: o.ask_all(["a"], timeuot_s=2), "'timeout_s'"),  # type: ignore[call-arg]
    "lease": (lambda o: o.lease("a", waits=5), "'wait_s'"),  # type: ignore[call-arg]
    "barrier": (lambda o: o.barrier("a", 2, on_deaths="shrink"), "'on_death'"),  # type: ignore[call-arg]
    "arrive": (lambda o: o.barrier("a", 2).arrive(if_brokn=None), "'if_broken'"),  # type: ignore[call-arg]
    "conversation": (lambda o: o.conversation(["a"], dat={}), "'data'"),  # type: ignore[call-arg]
    "campaign": (lambda o: o.election("a").campaign(waits=1), "'wait_s'"),  # type: ignore[call-arg]
    "monitor": (lambda o: o.monitors.monitor("a", tga="t"), "'tag'"),  # type: ignore[call-arg]
    "wait": (lambda _: Workflow("a").wait("b", evnt="c"), "'event'"),  # type: ignore[call-arg]
}


@pytest.mark.parametrize(("give", "near"), VERBS.values(), ids=VERBS)
def test_so_is_a_misspelt_argument_of_what_users_call(give: Callable[[Orchestrator], Any], near: str) -> None:
    orchestrator = agents_app.make(NO_REDIS, eager=True)
    with pytest.raises(TypeError, match=rf"\(\) got an unexpected keyword argument .*; did you mean {near}\?"):
        give(orchestrator)


def test_a_type_error_of_the_code_that_is_called_is_its_own() -> None:
    def raises(self: Any, *, name: str) -> None:
        raise TypeError("its own")

    own: Any = named_arguments(type("Own", (), {"verb": raises}))()
    with pytest.raises(TypeError, match=r"^its own$"):
        own.verb(name="a")
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'name'"):
        own.verb()


def test_other_errors_are_as_they_were() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'calls'"):
        Bulkhead()  # type: ignore[call-arg]
    with pytest.raises(InvalidPolicy, match="calls=0"):
        Bulkhead(calls=0)


def test_policies_are_values_as_before() -> None:
    retry = Retry(1, Constant(2), never=(ValueError,))
    assert replace(retry, max_retries=2) == Retry(2, Constant(2), ("ValueError",))
    assert pickle.loads(pickle.dumps(retry)) == retry
    assert list(inspect.signature(Retry).parameters) == ["max_retries", "backoff", "never", "on"]
