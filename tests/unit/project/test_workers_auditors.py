"""What an auditor answers, file by file."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import Context
from orchestrator.migration import FindingKind
from workers.auditors import Audit, Auditor, Report


def audited(path: Path) -> Report:
    context = Context(id="d1", agent="auditor", attempt=1, worker="w1@host", redelivered=False)
    return Auditor().audit(Audit(path=str(path)), context)


def test_findings_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "shop.py"
    path.write_text("from celery import shared_task\ncharge.delay(1)\ncharge.apply_async().get()\n")
    report = audited(path)
    assert [(f.kind, f.line) for f in report.findings] == [
        (FindingKind.DELAY, 2),
        (FindingKind.APPLY_ASYNC, 3),
        (FindingKind.GET_WITHOUT_TIMEOUT, 3),
    ]
    assert report.unparsable == ""


def test_a_report_survives_the_way_through_redis(tmp_path: Path) -> None:
    path = tmp_path / "shop.py"
    path.write_text("import celery\ncharge.delay(1)\n")
    report = audited(path)
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_what_is_not_python_is_an_answer_and_no_error(tmp_path: Path) -> None:
    path = tmp_path / "old.py"
    path.write_text('print "Python 2"\n')
    report = audited(path)
    assert report.findings == ()
    assert str(path) in report.unparsable


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"\n\n\nCAF\xc9 = 1\n", UnicodeDecodeError), (b"# coding: klingon\n", SyntaxError), (None, FileNotFoundError)],
)
def test_what_cannot_be_read_is_an_error_for_it_may_only_be_half_written(
    tmp_path: Path, content: bytes | None, error: type[Exception]
) -> None:
    path = tmp_path / "file.py"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error):
        audited(path)
