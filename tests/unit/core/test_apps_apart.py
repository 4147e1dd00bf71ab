"""What one app of the tests declares is not another's: each file must pass beside any other, in any order."""

from __future__ import annotations

from celery import Celery

from tests.apps import bare, whole


def test_a_tests_app_shares_no_task_with_others() -> None:
    other = Celery("other", set_as_current=False)
    other.finalize()
    tasks = [one for app in (bare.app, whole.app) for one in app.tasks.items()]
    # Those that a page's examples have shared, in this process, are no test's.
    own = {name for name, task in tasks if task.__module__.startswith("tests.apps.")}
    assert own
    assert not own & set(other.tasks)
