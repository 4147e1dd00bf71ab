"""Any source text is audited or refused, however deep, long or odd it is."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.migration import (
    Finding,
    FindingKind,
    UnparsableSource,
    audit_source,
    python_files,
    read_source,
)

APPLY_ASYNC, GET = FindingKind.APPLY_ASYNC, FindingKind.GET_WITHOUT_TIMEOUT


def test_a_long_chain_is_no_deep_recursion() -> None:
    length = 800
    assert len(audit_source("x = " + "a.s()" + ".delay()" * length, "shop.py")) == length


def test_a_deep_tree_that_the_parser_accepts_is_walked() -> None:
    source = "x = " + "-" * 900 + "a.delay()"
    assert [finding.kind for finding in audit_source(source, "shop.py")] == [FindingKind.DELAY]


@given(st.text())
@example("\x00")
@example("\ud800")
@example("\\")
@example("'\\N{'")
@example("0777")
@example("9" * 5000)
@example("1if 1else 2")
@example("'\\d' is 1")
@example("\ufeff\ufeff")
@example("x = '''")
@example("\tif x:\n        y\n\tz")
@example("f'{'")
@example("f'{x!z}'")
def test_any_text_is_audited_or_refused(source: str) -> None:
    with suppress(UnparsableSource):
        assert all(isinstance(finding, Finding) for finding in audit_source(source, "any.py"))


_WORDS = (
    r"r x self . = := ( ) ( ) [ ] .delay .apply_async send_task .get AsyncResult group chord , None timeout "
    r"\sfor\s \sin\s \sif\s \selse\s lambda\s : def\sf class\sC async\s await\s with\s \sas\s del\s "
    r"\n \n\s \\\n \r \f @task\n import\scelery\n #\sorchestrator:\signore\n f'{ }' ' * ** | é"
)


def _word(shown: str) -> str:
    for escape, character in ((r"\s", " "), (r"\n", "\n"), (r"\r", "\r"), (r"\f", "\f")):
        shown = shown.replace(escape, character)
    return shown


@given(st.lists(st.sampled_from([_word(shown) for shown in _WORDS.split()]), max_size=25).map("".join))
def test_code_like_text_is_audited_or_refused(source: str) -> None:
    with suppress(UnparsableSource):
        audit_source(source, "any.py")


@pytest.fixture(scope="module")
def celery_sources() -> dict[Path, str]:
    spec = importlib.util.find_spec("celery")
    assert spec is not None
    assert spec.origin is not None
    return {path: read_source(path) for path in python_files(Path(spec.origin).parent)}


def test_celery_itself_has_sends(celery_sources: dict[Path, str]) -> None:
    findings = [finding for path, source in celery_sources.items() for finding in audit_source(source, path.as_posix())]
    in_canvas = [finding for finding in findings if finding.path.endswith("celery/canvas.py")]
    assert len([finding for finding in in_canvas if finding.kind is APPLY_ASYNC]) >= 5
    assert any(finding.kind is GET and "apply_async().get()" in finding.snippet for finding in in_canvas)
    assert {finding.kind for finding in findings} == set(FindingKind)
    assert all(finding.kind.value in finding.snippet for finding in findings if finding.kind is not GET)


@pytest.mark.slow
def test_the_look_ahead_hides_nothing(celery_sources: dict[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [audit_source(source, str(path)) for path, source in celery_sources.items()]
    monkeypatch.setattr("orchestrator.migration.audit.may_have_findings", lambda source: True)
    assert quick == [audit_source(source, str(path)) for path, source in celery_sources.items()]
