"""A traceback without the frames of libraries."""

from pathlib import Path

import pytest

import orchestrator
from orchestrator.core.deliveries.frames import own_frames

TRACEBACK = """\
Traceback (most recent call last):
  File "/usr/lib/python3.11/site-packages/celery/app/trace.py", line 1, in trace
    run()
    ^^^^^
  File "/srv/shop/bank.py", line 7, in pay
    return socket.create_connection()
  File "/usr/lib/python3.11/socket.py", line 9, in create_connection
    raise TimeoutError
TimeoutError: no answer

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/srv/venv/lib/python3.11/site-packages/orchestrator/agents/host.py", line 3, in run
    handler()
  File "C:/shop/billing.py", line 4, in charge
    raise Refused from error
shop.Refused: no"""

OWN = """\
Traceback (most recent call last):
  File "/srv/shop/bank.py", line 7, in pay
    return socket.create_connection()
TimeoutError: no answer

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "C:/shop/billing.py", line 4, in charge
    raise Refused from error
shop.Refused: no"""


def test_only_the_users_own_frames_are_kept() -> None:
    assert own_frames(TRACEBACK) == OWN


def test_a_traceback_without_any_is_kept_whole() -> None:
    whole = TRACEBACK.replace("/srv/shop/", "/usr/lib/python3.11/").replace("C:/shop/", "/x/site-packages/")
    assert own_frames(whole) == whole
    assert own_frames("") == ""
    assert own_frames("no traceback at all") == "no traceback at all"


def frame(path: str) -> str:
    return f'  File "{path}", line 3, in run\n    handler()\n'


@pytest.mark.parametrize("folder", ["core", "agents", "worker", "transport"])
def test_a_users_own_package_named_orchestrator_is_the_users(folder: str) -> None:
    """Regression: it was taken for this library."""
    own = frame(f"/srv/shop/orchestrator/{folder}/pay.py")
    library = frame(f"{Path(orchestrator.__file__).parent}/registry/agents.py")
    head, error = "Traceback (most recent call last):\n", "shop.Refused: no"
    assert own_frames(head + library + own + error) == head + own + error
