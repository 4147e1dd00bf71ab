"""The demo's workflow, in eager mode."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery

from orchestrator import Orchestrator, Workflow
from workers.auditors import Audit, Auditor, Summary
from workers.main_job import main_job


@pytest.fixture
def orchestrator() -> Orchestrator:
    app = Celery("main-job", set_as_current=False)
    app.conf.task_always_eager = True
    orchestrator = Orchestrator(app)
    orchestrator.host(Auditor)
    return orchestrator


def summary_of(orchestrator: Orchestrator, flow: Workflow) -> Summary:
    run = orchestrator.workflows.start(flow)
    assert run.status().state == "completed", run.explain()
    return Summary.model_validate(run.result("summary"))


def test_every_file_is_in_the_summary(orchestrator: Orchestrator, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "orders.py").write_text("from celery import shared_task\ncharge.delay(1)\n")
    (tmp_path / "old.py").write_text('print "Python 2"\n')
    summary = summary_of(orchestrator, main_job(tmp_path, "", {}))
    assert summary.files == 2
    assert [(one.kind.value, one.certain + one.possible) for one in summary.found if one.certain + one.possible] == [
        ("delay", 1)
    ]
    assert len(summary.unparsable) == 1


def test_bad_input_does_not_keep_it_from_its_end(orchestrator: Orchestrator, tmp_path: Path) -> None:
    (tmp_path / "good.py").touch()
    bad = {"undecodable": Audit(path=str(tmp_path / "nowhere.py"))}
    assert summary_of(orchestrator, main_job(tmp_path, "", bad)).files == 1


def test_a_file_alone_and_a_file_that_cannot_be_decoded(orchestrator: Orchestrator, tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes(b"CAF\xc9 = 1\n")
    (tmp_path / "good.py").touch()
    assert summary_of(orchestrator, main_job(tmp_path / "good.py", "", {})).files == 1
    assert summary_of(orchestrator, main_job(tmp_path, "", {})).files == 1
