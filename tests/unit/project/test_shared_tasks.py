"""What the tests of one module declare is in no app of another module's tests."""

from __future__ import annotations

from celery import Celery, current_app, shared_task

from tests.support.shared_tasks import forgotten_afterwards


def test_a_task_of_an_example_is_in_no_later_app() -> None:
    """Regression: after a page's example with ``@app.task``, an app without tasks had one."""
    before = current_app._get_current_object()
    with forgotten_afterwards():
        example = Celery("example", broker="memory://")

        @example.task(name="example.own")
        def own() -> None:
            """Do nothing."""

        @shared_task(name="example.shared")
        def shared() -> None:
            """Do nothing."""

        assert {"example.own", "example.shared"} <= Celery("beside", set_as_current=False).tasks.keys()
    later = Celery("later", set_as_current=False)
    assert [name for name in later.tasks if not name.startswith("celery.")] == []
    assert "celery.backend_cleanup" in later.tasks
    assert current_app._get_current_object() is before
