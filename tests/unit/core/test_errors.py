"""Errors travel: pools and result backends pickle them."""

import pickle

import pytest

from orchestrator.core import errors
from orchestrator.core.deliveries.outcome import Dead

ALL = [
    errors.UnknownAgent("a", ["b"]),
    errors.UnknownMessage("a", "M", ["N"]),
    errors.InvalidMessage("M", ["x=1: no"]),
    errors.InvalidPolicy("x", object, "y"),
    errors.InvalidDeclaration("no"),
    errors.InvalidSettings(["x=1"]),
    errors.UnknownDeadLetter("5-5"),
    errors.NotSupervised("no"),
    errors.SendFailed("d", Dead("poison")),
    errors.HandlerTimeout("h", 1.5),
    errors.DeliveryTimeout("d", 2),
    errors.BrokerUnavailable("redis://", "gone"),
    errors.EmbeddedServerError("no"),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_after_a_journey(error: errors.OrchestratorError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_an_error_is_somebodys_fault(error: errors.OrchestratorError) -> None:
    faults = (errors.CallerError, errors.AgentError, errors.InfrastructureError)
    assert sum(isinstance(error, fault) for fault in faults) == 1


def test_a_failure_of_a_handler_that_calls_shows_the_first_cause() -> None:
    error: Exception = errors.CallWouldDeadlock(["a", "b", "a"], "w1 has no free slot for b while it runs a")
    for hop in range(20):
        error = errors.SendFailed(f"delivery-{hop}", Dead("retries exhausted", f"{type(error).__name__}: {error}"))
    assert str(error).startswith("delivery delivery-19 was not handled: retries exhausted: SendFailed: delivery")
    assert "CallWouldDeadlock: the call would wait for itself: a → b → a; w1 has no free slot" in str(error)
    assert len(str(error)) < 1200


def test_each_of_several_errors_is_named_with_its_agent_and_a_bounded_text_without_secrets() -> None:
    of_agents = {
        "billing": ValueError("no room\nfor password=hunter2"),
        "stock": KeyError("x" * 1000),
        "mail": RuntimeError(),
    }
    text = str(errors.NotEnoughReplies(3, {}, of_agents))
    beginning = "0 replied; needed: 3; billing: ValueError: no room for password=**redacted**, stock: KeyError: 'xxx"
    assert text.startswith(beginning)
    assert text.endswith("xxx..., mail: RuntimeError")
    assert len(text) < 400
