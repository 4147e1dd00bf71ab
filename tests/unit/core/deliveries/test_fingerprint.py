"""What makes two failures the same."""

import pytest

from orchestrator.core.deliveries.fingerprint import fingerprint, normalised_stack


def stack(*frames: tuple[str, int, str]) -> str:
    return "".join(f'  File "{path}", line {line}, in {name}\n    code at {line}\n' for path, line, name in frames)


def test_directories_and_lines_do_not_count() -> None:
    here = stack(("/srv/app/bank.py", 3, "pay"), ("/srv/app/http.py", 9, "post"))
    there = stack(("C:\\new\\bank.py", 4, "pay"), ("/other/http.py", 10, "post"))
    assert normalised_stack(here) == ("bank.py:pay", "http.py:post")
    assert fingerprint("E", here) == fingerprint("E", there)


@pytest.mark.parametrize(
    "other",
    [
        fingerprint("F", stack(("a.py", 1, "f"))),
        fingerprint("E", stack(("b.py", 1, "f"))),
        fingerprint("E", stack(("a.py", 1, "g"))),
        fingerprint("E", "", "a.py:g"),
    ],
)
def test_what_differs_is_another_group(other: str) -> None:
    assert fingerprint("E", stack(("a.py", 1, "f"))) != other


def test_recursion_makes_one_group() -> None:
    assert fingerprint("E", stack(*[("a.py", 1, "f")] * 3)) == fingerprint("E", stack(*[("a.py", 2, "f")] * 900))


def test_without_a_stack_the_place_counts() -> None:
    assert fingerprint("WorkerLost", "", "a.B") == fingerprint("WorkerLost", "no frames here", "a.B")
    assert fingerprint("WorkerLost", "", "a.B") != fingerprint("WorkerLost", "", "a.C")


def test_it_is_stable() -> None:
    assert fingerprint("ValueError", stack(("a.py", 1, "f"))) == "c31c4eb82ab5"
