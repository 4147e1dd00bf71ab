"""A definition is read whole, or refused with all that is wrong."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from orchestrator.core.supervision_tree.spec import (
    Backoff,
    OnGiveUp,
    Restart,
    Strategy,
    SupervisorSpec,
    allowed_ends,
    walk,
)
from orchestrator.supervisor.reading import read as reading
from orchestrator.supervisor.reading.definition import Definition, InvalidDefinition, Kind, ProbeKind
from orchestrator.supervisor.reading.options import substituted

FULL = """
[supervisor]
app = "shop"
strategy = "one_for_one"
intensity = 5
period_s = 30
[[supervisor.children]]
id = "redis"
kind = "redis"
port = "${SHOP_REDIS_PORT:-7001}"
[[supervisor.children]]
id = "control"
kind = "supervisor"
strategy = "rest_for_one"
children = [
  { id = "manager", kind = "worker", queues = ["monitor-manager"], pool = "solo" },
  { id = "beat", kind = "beat" },
]
[[supervisor.children]]
id = "agents"
kind = "supervisor"
on_give_up = "hold"
[[supervisor.children.children]]
id = "billing"
kind = "worker"
queues = ["billing"]
concurrency = 4
replicas = 2
shutdown_s = "infinity"
ready_s = 9
backoff = { first_s = 1, cap_s = 8 }
stable_s = 7
[[supervisor.children]]
id = "web"
kind = "process"
command = ["gunicorn", "shop.web"]
ready_url = "http://127.0.0.1:8000/healthz"
restart = "transient"
environment = { LEVEL = "$SHOP_LEVEL" }
"""


@pytest.fixture
def read(tmp_path):
    def reads(text: str, name: str = "orchestrator.toml", app: str | None = None) -> Definition:
        (tmp_path / name).write_text(text)
        return reading.read(tmp_path / name, Path("state"), app)

    return reads


def problems(read, text: str, name: str = "orchestrator.toml") -> list[str]:
    with pytest.raises(InvalidDefinition) as refused:
        read(text, name)
    return list(refused.value.problems)


def one(text: str) -> str:
    return f'[supervisor]\napp = "shop"\nchildren = [{text}]'


def test_a_whole_definition(read, monkeypatch, tmp_path):
    monkeypatch.setenv("SHOP_LEVEL", "7")
    definition = read(FULL)

    paths = [path for path, _ in walk(definition.root)]
    control, agents = ["control", "control/manager", "control/beat"], ["agents", "agents/billing.1", "agents/billing.2"]
    assert paths == ["", "redis", *control, *agents, "web"]
    root = definition.root
    assert (root.intensity, root.period_s) == (5, 30.0)
    agents = root.children[2]
    assert isinstance(agents, SupervisorSpec)
    assert (agents.on_give_up, allowed_ends(agents)) == (OnGiveUp.HOLD, 1)
    # Nothing is said of it: its processes decide.
    assert allowed_ends(definition.root.children[1]) == 9
    billing = agents.children[0]
    assert not isinstance(billing, SupervisorSpec)
    assert (billing.shutdown_s, billing.ready_s, billing.stable_s) == (inf, 9.0, 7.0)
    assert billing.backoff == Backoff(1.0, 8.0)

    command = definition.commands["agents/billing.2"]
    assert command.arguments[1:] == (
        "-m", "celery", "-A", "shop", "--quiet", "worker", "-n", "billing.2@%h", "-Q", "billing", "-c", "4",
        "-l", "INFO",
    )  # fmt: skip
    assert command.probe.kind is ProbeKind.HEALTH
    assert definition.commands["redis"].port == 7001
    web = definition.commands["web"]
    assert (web.probe.kind, web.probe.port, web.probe.path) == (ProbeKind.HTTP, 8000, "/healthz")
    assert web.environment == {"LEVEL": "7"}
    assert web.directory == str(tmp_path)
    assert definition.warnings == ()


def test_the_environment_of_all(read, monkeypatch):
    monkeypatch.setenv("HOST", "h")
    root = '[supervisor]\napp = "shop"\nenvironment = { URL = "redis://$HOST/0", LEVEL = "1" }\n'
    worker = '{ id = "w", kind = "worker", environment = { LEVEL = "2" } }'
    nested = '{ id = "more", children = [{ id = "p", kind = "process", command = ["x"] }] }'
    definition = read(f"{root}children = [{worker}, {nested}]")
    assert definition.environment == {"URL": "redis://h/0", "LEVEL": "1"}
    assert definition.commands["w"].environment == {"URL": "redis://h/0", "LEVEL": "2"}
    assert definition.commands["more/p"].environment == {"URL": "redis://h/0", "LEVEL": "1"}


def test_the_environment_of_all_is_checked(read):
    texts = {
        "environment = { A = 1 }": "supervisor.environment={'A': 1}; allowed: a table of texts",
        "environments = {}": "supervisor.environments={}; unknown of a supervisor; did you mean 'environment'?",
    }
    for text, problem in texts.items():
        assert problems(read, f"[supervisor]\n{text}\nchildren = []")[0].startswith(problem)
    below = '{ id = "a", children = [], environment = {} }'
    assert "a.environment={}; unknown of a supervisor" in problems(read, one(below))[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [("$A", "1"), ("${A}b", "1b"), ("${B:-2}", "2"), ("${B-2}", "2"), ("$B", ""), ("$$A", "$A"), ("5$", "5$")],
)
def test_variables(text, value):
    assert substituted(text, {"A": "1"}) == value


def test_two_lines_a_child(read):
    definition = read(one('{ id = "billing", kind = "worker" }'))

    assert definition.commands["billing"].app == "shop"
    assert [warning.partition(":")[0] for warning in definition.warnings] == [
        "no worker serves monitor-manager", "no beat",
    ]  # fmt: skip


#: A child or several, and below each the one fault that is found.
REFUSED = r"""
{ id = "a", kind = "worker", concurency = 4 }
    a.concurency=4; unknown of a worker; did you mean 'concurrency'?
{ id = "a", kind = "wroker" }
    a.kind=wroker; allowed: supervisor | worker | beat | flower | redis | process; did you mean 'worker'?
{ id = "a", kind = "worker", pool = "sollo" }
    a.pool=sollo; allowed: prefork | eventlet | gevent | solo | processes | threads | custom; did you mean 'solo'?
{ id = "s", strategy = "one_for_two", children = [] }
    s.strategy=one_for_two; allowed: one_for_one | one_for_all | rest_for_one; did you mean 'one_for_one'?
{ id = "a", kind = "beat" }, { id = "a", kind = "flower" }
    a.id=a; used twice; allowed: once in a supervisor
{ id = "a", kind = "worker", replicas = -1 }
    a.replicas=-1; allowed: a whole number from 0 to 256
{ id = "a", kind = "worker", replicas = 257 }
    a.replicas=257; allowed: a whole number from 0 to 256
{ id = "s", intensity = -1, children = [] }
    s.intensity=-1; allowed: a whole number from 0 to 1000000
{ id = "s", period_s = 0, children = [] }
    s.period_s=0; allowed: seconds, above 0, below 1000000000
{ id = "s", shutdown_s = 5, children = [] }
    s.shutdown_s=5; allowed: "infinity": a supervisor takes as long as its children
{ id = "a", kind = "worker", shutdown_s = "soon" }
    a.shutdown_s=soon; allowed: seconds, "infinity" or "kill"
{ id = "s", auto_shutdown = "any_significant", children = [{ id = "a", kind = "beat", significant = true }] }
    s/a.significant=true; allowed: with restart = transient | temporary
{ id = "a", kind = "beat", significant = true, restart = "transient" }
    a.significant=true; allowed: below a supervisor with auto_shutdown
{ id = "a", kind = "redis", port = 7000 }, { id = "b", kind = "flower", port = 7000 }
    b.port=7000; used by a; allowed: one child on a port
{ id = "a", kind = "worker" }, { id = "s", children = [{ id = "a", kind = "worker" }] }
    s/a.node=a@%h; used by a; allowed: one worker of a name; set node
{ id = "a", kind = "process" }
    a.command=; missing: a process needs it
{ id = "a", kind = "process", command = "sleep 1" }
    a.command=sleep 1; allowed: a list of texts: the program and its arguments, as ["python", "-m", "shop.web"]
{ id = "a/b", kind = "beat" }
    child 1.id=a/b; allowed: up to 64 letters, digits, '_', '.' and '-', the first of them a letter, a digit or '_'
{ id = "a", kind = "process", command = ["x"], ready = "exec" }
    a.ready=exec; allowed: with ready_command
{ id = "a", kind = "process", command = ["x"], ready_url = "http://example.com/" }
    a.ready_url=http://example.com/; allowed: http://127.0.0.1:PORT/PATH
{ id = "a", kind = "process", command = ["x"], ready_url = "http://127.0.0.1:99999/" }
    a.ready_url=http://127.0.0.1:99999/; allowed: http://127.0.0.1:PORT/PATH, with a port from 1 to 65535
{ id = "a", kind = "beat", ready_s = 1e300 }
    a.ready_s=1e+300; allowed: seconds, above 0, below 1000000000
{ id = "a", kind = "beat", backoff = { first_s = 9, cap_s = 1 } }
    a.backoff={'first_s': 9, 'cap_s': 1}; allowed: { first_s = seconds, cap_s = seconds, jitter = from 0 to 1 }, with 0 <= first_s <= cap_s
{ id = "s", hold_s = 5, children = [] }
    s.hold_s=5; allowed: only with on_give_up = "hold"
{ id = "a", kind = "redis", port = 1, replicas = 2 }
    a.replicas=2; allowed: 1 of a child with a port, and of beat
"""  # noqa: E501
ROWS = [
    (row.splitlines()[0], row.splitlines()[1].strip()) for row in REFUSED.strip().replace("\n{", "\n\n{").split("\n\n")
]


@pytest.mark.parametrize(("children", "problem"), ROWS, ids=[problem.split(";")[0] for _, problem in ROWS])
def test_refused(read, children, problem):
    assert problems(read, one(children)) == [problem]


def test_what_an_error_quotes_cannot_steer_a_terminal(read):
    (problem,) = problems(read, one(r'{ id = "a", kind = "\u001b[2J\nb" }'))

    assert problem.startswith(r"a.kind=\x1b[2J\nb; allowed: ")


def test_variables_that_are_not_set_are_warned_of(read, monkeypatch):
    monkeypatch.delenv("UNSET", raising=False)
    worker = '{ id = "s", children = [{ id = "a", kind = "worker", arguments = ["$UNSET", "${UNSET:-}", "$$UNSET"] }] }'
    warnings = read(f'[supervisor]\napp = "shop"\nenvironment = {{ URL = "$UNSET" }}\nchildren = [{worker}]').warnings

    assert [warning for warning in warnings if "UNSET" in warning] == [
        f"{path}: $UNSET is not set, so it is empty; ${{UNSET:-VALUE}} has a default" for path in ("supervisor", "s/a")
    ]


def test_all_faults_at_once(read):
    found = problems(
        read, 'redis = 1\n[supervisor]\nintensity = "x"\nchildren = [{ id = "a", kind = "worker", pol = 1 }]'
    )

    assert [problem.partition("=")[0] for problem in found] == ["redis", "supervisor.intensity", "a.pol", "a.app"]


@pytest.mark.parametrize(
    ("children", "faults"),
    [
        (
            '{ id = "a", kind = "workr", que = ["q"], pool = "thread", replicas = "4", shutdown = 5 }',
            ["a.kind", "a.que", "a.pool", "a.shutdown"],
        ),
        ('{ id = "a/b", kind = "process", command = "sleep 5", restart = "always" }', ["id", "command", "restart"]),
        ('{ id = "a", command = "sleep 5", restart = "always" }', ["a.kind", "a.command", "a.restart"]),
        (
            '{ id = "s", kind = "supervizor", children = [{ id = "a", kind = "beat", pol = 1 }] }',
            ["s.kind", "s/a.pol"],
        ),
        ('{ id = "a", kind = "thing", pol = 1 }', ["a.kind"]),
    ],
)
def test_a_child_without_a_valid_kind_or_id_has_its_other_faults_listed_too(read, children, faults):
    found = [problem.partition("=")[0].removeprefix("child 1.") for problem in problems(read, one(children))]
    assert found == faults


@pytest.mark.parametrize(
    "text", ["[supervisor", "", "supervisor = 3", "[supervisor]\nchildren = 3", "\n[supervisor]\nid = 'x'"]
)
def test_no_definition_at_all(read, text):
    assert problems(read, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Procfile", ""),
        ("Procfile", "\n# web: gunicorn shop\n  # beat: celery beat\n"),
        ("orchestrator.toml", "[supervisor]"),
        ("orchestrator.toml", "[supervisor]\nintensity = 3\nchildren = []"),
        ("orchestrator.toml", one('{ id = "s", children = [{ id = "t", children = [] }] }')),
    ],
)
def test_one_without_children(read, name, text):
    assert problems(read, text, name) == ["nothing to run; allowed: at least one process"]


def test_one_whose_only_child_has_no_copies_yet_may_be_scaled_later(read):
    definition = read(one('{ id = "a", kind = "beat", replicas = 0 }'))

    assert definition.commands == {}
    assert definition.warnings == (
        "no child has a copy: nothing runs until `orchestrator tree scale ID=COUNT` is used; there are: a",
    )


def test_one_that_is_nested_too_deep(read):
    assert problems(read, f"a = {'[' * 5000}{']' * 5000}") == ["nested too deep"]


def test_a_number_with_thousands_of_digits(read):
    assert len(problems(read, one(f'{{ id = "a", kind = "beat", ready_s = {"9" * 5000} }}'))) == 1
    assert len(problems(read, one(f'{{ id = "a", kind = "beat", ready_s = {"9" * 400} }}'))) == 1


def test_intensity_above_the_deaths_that_a_message_survives_is_warned_of(read):
    definition = read(
        one('{ id = "s", on_give_up = "hold", intensity = 3, children = [{ id = "a", kind = "worker" }] }')
    )

    assert definition.warnings[0] == (
        's has intensity = 3 with on_give_up = "hold": a message that kills each worker that runs it is a dead letter '
        "after max_deaths deaths (default 3), before its mailbox is put on hold; write intensity = 1, or omit it"
    )


def test_a_procfile_needs_no_shell(read, monkeypatch):
    monkeypatch.delenv("REDIS_PORT", raising=False)
    text = (
        "# shop\n"
        "redis: exec python -m orchestrator.embedded --port ${REDIS_PORT:-6379}\n"
        "worker: LEVEL=3 celery -A shop worker -n 'a b@%h'\n"
    )
    definition = read(text, "Procfile")

    assert definition.commands["redis"].arguments[-2:] == ("--port", "6379")
    assert definition.commands["worker"].arguments == ("celery", "-A", "shop", "worker", "-n", "a b@%h")
    assert definition.commands["worker"].environment == {"LEVEL": "3"}
    assert definition.commands["worker"].probe.kind is ProbeKind.HEALTH
    # So that its deaths are recorded.
    assert definition.apps() == ["shop"]


@pytest.mark.parametrize("line", ["beat: mkdir x && celery beat", "web: a | b", "nothing", "x: 'open"])
def test_a_procfile_that_needs_one_is_refused(read, line):
    assert len(problems(read, f"{line}\nfine: true", "Procfile")) == 1


@pytest.mark.parametrize("name", ["orchestrator.toml", "Procfile"])
def test_the_repositorys_own(name):
    definition = reading.read(Path(__file__).parents[3] / name, Path("state"))

    assert set(definition.commands) == {"redis", "manager", "auditor", "beat", "flower"}
    assert definition.commands["auditor"].probe.kind is ProbeKind.HEALTH
    assert definition.warnings == ()


def test_the_default_tree(monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "needs_redis", lambda *_, **__: False)
    definition = reading.default_tree("shop", tmp_path / "state", tmp_path)

    kinds = [definition.commands[path].kind for path in definition.commands]
    assert list(definition.commands)[:2] == ["manager", "beat"]
    assert set(kinds[2:]) == {Kind.WORKER}
    assert definition.root.strategy is Strategy.ONE_FOR_ONE
    assert allowed_ends(definition.root) == max(9, 3 * len(kinds))
    assert all(child.restart is Restart.PERMANENT for child in definition.root.children)


def test_the_default_tree_has_a_redis_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "needs_redis", lambda *_, **__: True)
    definition = reading.default_tree("shop", tmp_path / "state", tmp_path)

    assert next(iter(definition.commands)) == "redis"
    assert definition.commands["redis"].probe.kind is ProbeKind.PING


def test_a_misspelt_word_has_the_nearest_one(read):
    held = one('{ id = "s", on_give_up = "holt", children = [{ id = "a", kind = "worker" }] }')
    assert problems(read, held) == ["s.on_give_up=holt; allowed: escalate | hold; did you mean 'hold'?"]


def test_a_worker_and_beat_have_celerys_banner_only_if_it_is_asked_for(tmp_path):
    (tmp_path / "orchestrator.toml").write_text(
        """
        [supervisor]
        app = "shop"
        children = [
            { id = "quiet", kind = "worker" }, { id = "shown", kind = "worker", banner = true },
            { id = "beat", kind = "beat", banner = true }, { id = "other", kind = "beat" },
            { id = "flower", kind = "flower" },
        ]
        """
    )
    commands = reading.read(tmp_path / "orchestrator.toml", tmp_path / "state").commands

    assert {path for path, command in commands.items() if "--quiet" in command.arguments} == {"quiet", "other"}
