"""Errors travel: pools and result backends pickle them."""

import pickle

import pytest

from orchestrator.core import errors
from orchestrator.core.outcome import Dead

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
