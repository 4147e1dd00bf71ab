"""The options of an entry of ``beat_schedule``: whose they are, and what is refused."""

from __future__ import annotations

import pytest

from orchestrator import InvalidSchedule, Retry
from orchestrator.core.policies.effective import Policy
from orchestrator.schedules.declared.entry_options import split_options


def test_celerys_options_stay_with_celery():
    options = {"queue": "q", "priority": 3, "retry": True, "expires": 5, "link": None, "x-own": 1}
    assert split_options(options, any_name=False) == (options, Policy(), {})


def test_those_of_a_supervised_send_are_taken_out():
    options = {"queue": "q", "retry": Retry(2), "timeout_s": 3, "metadata": {"a": 1}}
    assert split_options(options, any_name=False) == ({"queue": "q"}, Policy(retry=Retry(2), timeout_s=3), {"a": 1})


def test_stamps_are_known():
    options = {"stamped_headers": ["tenant"], "tenant": "acme", "timeout_s": 3}
    assert "tenant" in split_options(options, any_name=False)[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timout_s": 3}, "options.timout_s=3.*did you mean 'timeout_s'"),
        ({"timeout_s": 3, "tenant": "acme"}, "options.tenant='acme'.*allowed: Celery's options, and retry"),
        ({"retry": 5}, "options.retry=5.*a Retry, or Celery's True or False"),
        ({"timeout_s": 3, "connection": object()}, "options.connection=.*not with timeout_s"),
        ({"metadata": {"a": {1}}}, "options.metadata=.*an object of JSON data"),
        ({"stamped_headers": 5}, "options.stamped_headers=5.*a list of the names of headers"),
        ({"stamped_headers": [["a"]]}, "options.stamped_headers="),
        ({"on_error": "explode"}, "options.on_error='explode'"),
    ],
)
def test_what_is_refused_says_why(options, says):
    with pytest.raises(InvalidSchedule, match=says):
        split_options(options, any_name=False)


def test_a_class_with_a_way_of_its_own_may_know_any_name():
    assert split_options({"timout_s": 3}, any_name=True) == ({"timout_s": 3}, Policy(), {})
