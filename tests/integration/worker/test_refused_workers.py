"""Real workers whose times cannot fit together do not start: one line, exit code 2, and nothing left behind."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.support.agents_cluster import APP, hosted
from tests.support.command_line import celery

AS_ROOT = {"C_FORCE_ROOT": "1"}


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (
            (),
            {"HEARTBEAT_S": "0.6"},
            "heartbeat_s=0.6, heartbeat_timeout_s=0.6, lease_s=10; allowed: heartbeat_s < heartbeat_timeout_s",
        ),
        (
            (),
            {"LEASE_S": "0.6"},
            "heartbeat_timeout_s=0.6, lease_s=0.6; allowed: heartbeat_s < heartbeat_timeout_s < lease_s",
        ),
        ((), {"KILL_AFTER_S": "0"}, "kill_after_s='0': Input should be greater than 0"),
        # Known when the agent is hosted, while the app is imported.
        (
            (),
            {"DEADLINES": '{"worker.*": 29}'},
            "worker.Hurried: timeout_s=30 (said by handler); allowed: at most deadline_s=29 (said by settings)",
        ),
        # Known only when the worker has everything together.
        (
            (),
            {"TIMEOUTS": '{"plain.a*": 5}', "DEADLINES": '{"plain.*": 3}'},
            "plain.add, plain.again: timeout_s=5 (said by settings); allowed: at most deadline_s=3 (said by settings)",
        ),
        (
            ("--time-limit", "4", "--soft-time-limit", "5"),
            {},
            "soft_time_limit of the worker=5; allowed: at most time_limit of the worker=4",
        ),
        (
            ("-P", "prefork"),
            {"TIMEOUTS": '{"plain.limited": 1}'},
            "plain.limited: timeout_s=1 (said by settings); allow",
        ),
    ],
)
def test_what_cannot_work_is_refused(
    redis_url: str, arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    settings = {f"ORCHESTRATOR_{name}": value for name, value in environment.items()}
    pool = () if "-P" in arguments else ("-P", "solo")
    done = celery(
        "-A", APP, "worker", "-n", "refused@%h", *pool, *arguments,
        ORCHESTRATOR_BROKER_URL=redis_url, **AS_ROOT, **settings,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Error: invalid settings: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    with Redis.from_url(redis_url) as client:
        assert client.zcard("orc:leases") == 0


def test_what_merely_wastes_is_explained_in_one_warning() -> None:
    wasteful = {
        "ORCHESTRATOR_TIMEOUTS": '{"worker.A*": 7, "plain.a*": 7}',
        "ORCHESTRATOR_DEADLINES": '{"worker.A*": 10}',
    }
    with hosted(environment=wasteful) as cluster:
        (line,) = [line for line in cluster.log().splitlines() if "cuts the last ones off" in line]
    assert "WARNING" in line
    assert "worker.Add: 3 attempts of up to 7 s with 0.03 s of pauses take up to 21.03 s; deadline_s=10 cuts" in line
