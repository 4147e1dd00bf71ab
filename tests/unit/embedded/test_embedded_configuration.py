"""What the embedded server's redis.conf may and may not say."""

from pathlib import Path

import pytest

from orchestrator.embedded import EmbeddedServerError
from orchestrator.embedded.configuration import render_configuration


def test_keeps_nothing_and_listens_on_loopback_by_default():
    lines = render_configuration(7001, Path("/somewhere"), {}, "pw").splitlines()
    assert {'save ""', "appendonly no", "bind 127.0.0.1", "port 7001", 'dir "/somewhere"'} <= set(lines)


def test_overrides_replace_defaults():
    lines = render_configuration(
        7001, Path("/d"), {"appendonly": "yes", "save": "60 1000", "Foo": ""}, "pw"
    ).splitlines()
    assert {"appendonly yes", "save 60 1000", 'foo ""'} <= set(lines)
    assert "appendonly no" not in lines


def test_quotes_the_directory():
    assert 'dir "/a \\"b\\" c"' in render_configuration(7001, Path('/a "b" c'), {}, "pw")


@pytest.mark.parametrize(
    "config",
    [
        {"bind": "0.0.0.0"},
        {"PORT": "1"},
        {"requirepass": "x"},
        {"user": "x on"},
        {"maxmemory": "1\nbind 0.0.0.0"},
        {" ": "x"},
    ],
)
def test_refuses_what_would_break_its_promises(config):
    with pytest.raises(EmbeddedServerError):
        render_configuration(7001, Path("/d"), config, "pw")


def test_without_a_password_the_commands_that_reach_the_owners_files_are_refused():
    assert 'requirepass "p\\"w"' in render_configuration(7001, Path("/d"), {}, 'p"w')
    text = render_configuration(7001, Path("/d"), {}, "")
    (user,) = (line for line in text.splitlines() if line.startswith("user "))
    assert user.startswith("user default on nopass ")
    assert {"-config", "-save", "-module", "-debug", "-replicaof"} <= set(user.split())
    assert "requirepass" not in text
