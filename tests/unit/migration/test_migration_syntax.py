"""What cannot be parsed is refused with one error, and parsing says nothing to anybody."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.migration import UnparsableSource, audit_source

# The first warns while it is tokenized, the second while its string is built.
WARNING_SOURCES = ["x = 1if 1else 2", "x = '\\d'", "x = b'\\d'", "x = f'\\d{1}'"]


@pytest.fixture(autouse=True)
def _restored_filters() -> Iterator[None]:
    with warnings.catch_warnings():
        yield


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("def f(:\n    pass", 1),
        ("x = 1\nif x\n    y", 2),
        ("x = 1\n  y = 2", 2),
        ("x = '''never closed", 1),
        ("print 'hello'", 1),
        ("(" * 1000, 1),
        ("9" * 5000, 1),
        ("x = '\x00'", None),
        ("x = '\ud800'", None),
        ("-" * 100_000 + "1", None),
        ("a" + ".b" * 100_000, None),
        ("x = " + "1 + " * 100_000 + "1", None),
        ("if x: y\n" + "elif x: y\n" * 20_000, None),
    ],
)
def test_refused(source: str, line: int | None) -> None:
    with pytest.raises(UnparsableSource) as refused:
        audit_source(source, "shop/broken.py")
    error = refused.value
    assert isinstance(error, ValueError)
    assert (error.path, error.line) == ("shop/broken.py", line)
    assert error.reason
    place = "shop/broken.py" if line is None else f"shop/broken.py:{line}"
    assert str(error) == f"{place}: {error.reason}"


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UnparsableSource("shop.py", 3, "invalid syntax")))
    assert (error.path, error.line, error.reason) == ("shop.py", 3, "invalid syntax")


def test_parsing_works_again_after_a_refusal() -> None:
    for _ in range(3):
        with pytest.raises(UnparsableSource):
            audit_source("a" + ".b" * 100_000, "deep.py")
        assert audit_source("x.delay()", "fine.py")


@pytest.mark.parametrize("source", WARNING_SOURCES)
def test_parsing_warns_nobody(source: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        audit_source(source, "shop.py")
    assert caught == []


@pytest.mark.parametrize("source", WARNING_SOURCES)
def test_a_warning_is_no_error_even_where_warnings_are(source: str) -> None:
    warnings.simplefilter("error")
    assert audit_source(source, "shop.py") == ()


def test_the_warnings_of_others_are_shown() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        audit_source("x = '\\d'", "shop.py")
        compile("x = '\\d'", "shop.py", "exec")
    assert len(caught) == 1


def test_one_filter_is_enough() -> None:
    audit_source("x = '\\d'", "shop.py")
    before = list(warnings.filters)
    for _ in range(3):
        audit_source("x = '\\d'", "shop.py")
    assert list(warnings.filters) == before


def test_threads_leave_the_filters_alone() -> None:
    warnings.simplefilter("error")
    audit_source("", "shop.py")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda source: audit_source(source, "shop.py"), WARNING_SOURCES * 100)) == {()}
    assert list(warnings.filters) == before
