"""`dead-letters` acting on many letters at once, on a real Redis."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from orchestrator import Orchestrator
from orchestrator.cli.dead_letters.group import dead_letters
from orchestrator.cli.output import tables
from tests.support.command_line import dead_letters_json, invoke
from tests.support.letters_under_test import LettersInRedis


def test_filters_choose_what_is_listed_and_replayed(shop: Orchestrator, letter_log: LettersInRedis) -> None:
    letter_log.add_letter(error="KeyError", metadata={"job": 1})
    other = letter_log.add_letter(error="ValueError")
    assert dead_letters_json(shop, "list", "--error", "KeyError", "--metadata", "job=1")["count"] == 1
    assert dead_letters_json(shop, "retry", "--error", "KeyError", "--dry-run") == {"would_replay": 1}
    assert dead_letters_json(shop, "retry", "--error", "KeyError", "--why", "fixed")["sent"] == 1
    assert [letter["id"] for letter in dead_letters_json(shop, "list")["letters"]] == [other]
    (act,) = dead_letters_json(shop, "audit")["audit"]
    assert (act["kind"], act["why"], act["done"], act["detail"]["filter"]["error"]) == (
        "replay",
        "fixed",
        1,
        "KeyError",
    )
    assert "fixed" in invoke(shop.app, dead_letters, "audit").stdout


def test_all_letters_are_meant_only_if_that_is_said(shop: Orchestrator, letter_log: LettersInRedis) -> None:
    letter_log.add_letter()
    for command in (("replay",), ("retry",), ("park", "--note", "n"), ("unpark",), ("purge", "--yes")):
        refused = invoke(shop.app, dead_letters, *command)
        assert refused.exit_code == 2
        assert refused.stderr == "Error: no letters selected; give an ID, a filter, or --all\n"
    assert dead_letters_json(shop, "retry", "--all")["sent"] == 1


def test_a_canary_that_stops_is_an_exit_code(shop: Orchestrator, letter_log: LettersInRedis) -> None:
    letter_log.add_letter()
    letter_log.add_letter()
    result = invoke(shop.app, dead_letters, "retry", "--all", "--canary", "--wait", "0.05")
    assert result.exit_code == 1
    assert "1 dead letter replayed" in result.stdout
    assert "have not ended within" in result.stderr


def test_a_full_mailbox_that_stops_a_retry_is_an_exit_code(shop: Orchestrator, letter_log: LettersInRedis) -> None:
    last = [letter_log.add_letter() for _ in range(6)][-1]
    letter_log.bound("billing", 4)
    result = invoke(shop.app, dead_letters, "retry", "--all", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["sent"] == 4
    assert "'billing' is full" in document["stopped"]
    assert result.stderr == f"Error: stopped: {document['stopped']}\n"
    result = invoke(shop.app, dead_letters, "retry", last)
    assert (result.exit_code, result.stdout) == (5, "")
    assert "'billing' is full" in result.stderr
    assert dead_letters_json(shop, "list")["count"] == 2


def test_a_dry_run_sends_not_even_one(shop: Orchestrator, letter_log: LettersInRedis) -> None:
    letter_id = letter_log.add_letter()
    assert dead_letters_json(shop, "retry", letter_id, "--dry-run") == {"would_replay": 1}
    assert dead_letters_json(shop, "list")["count"] == 1
    assert invoke(shop.app, dead_letters, "retry", "1-1", "--dry-run").exit_code == 2


@pytest.mark.parametrize("command", [("replay",), ("park", "--note", "n"), ("unpark",), ("purge", "--yes")])
@pytest.mark.parametrize("more", [("--all",), ("--agent", "shipping"), ("--state", "all"), ("--metadata", "job=1")])
def test_one_letter_or_those_of_a_filter_are_meant(
    shop: Orchestrator, letter_log: LettersInRedis, command: tuple[str, ...], more: tuple[str, ...]
) -> None:
    letter_id = letter_log.add_letter()
    refused = invoke(shop.app, dead_letters, *command, letter_id, *more)
    assert refused.exit_code == 2
    assert refused.stderr == "Error: an ID cannot be combined with a filter or --all\n"
    assert dead_letters_json(shop, "list")["count"] == 1
    assert dead_letters_json(shop, "audit")["audit"] == []


@pytest.mark.parametrize("options", [("--at-most", "1"), ("--rate", "5"), ("--canary",)])
def test_what_is_for_many_is_not_for_one(
    shop: Orchestrator, letter_log: LettersInRedis, options: tuple[str, ...]
) -> None:
    refused = invoke(shop.app, dead_letters, "retry", letter_log.add_letter(), *options)
    assert refused.exit_code == 2
    assert refused.stderr == f"Error: {options[0]} cannot be combined with an ID\n"
    assert dead_letters_json(shop, "list")["count"] == 1


@pytest.mark.parametrize("options", [("--wait", "5"), ("--max-failure-rate", "0.5")])
def test_what_is_the_canarys_wants_one(
    shop: Orchestrator, letter_log: LettersInRedis, options: tuple[str, ...]
) -> None:
    letter_log.add_letter()
    refused = invoke(shop.app, dead_letters, "retry", "--all", *options)
    assert refused.exit_code == 2
    assert refused.stderr == "Error: --max-failure-rate and --wait need --canary\n"
    assert dead_letters_json(shop, "list")["count"] == 1


@pytest.mark.parametrize("pair", ["job", "=1", ""])
def test_metadata_needs_a_name_and_a_value(shop: Orchestrator, letter_log: LettersInRedis, pair: str) -> None:
    refused = invoke(shop.app, dead_letters, "list", "--metadata", pair)
    assert refused.exit_code == 2
    assert refused.stderr == f"Error: --metadata {pair!r}: not NAME=VALUE\n"


def test_groups_and_stats_are_shown(shop: Orchestrator, letter_log: LettersInRedis) -> None:
    for _ in range(3):
        letter_log.add_letter(error="KeyError", text="token=S3CRET")
    (group,) = dead_letters_json(shop, "groups")["groups"]
    assert (group["count"], sum(group["arrivals_24h"])) == (3, 3)
    shown = invoke(shop.app, dead_letters, "groups").stdout
    assert group["group"] in shown
    assert "█" in shown
    assert "S3CRET" not in shown
    stats = dead_letters_json(shop, "stats")
    assert (stats["counts"]["open"], stats["by"]["error"]) == (3, {"KeyError": 3})
    assert "KeyError" in invoke(shop.app, dead_letters, "stats").stdout


def test_an_edit_shows_its_diff_and_asks(shop: Orchestrator, letter_log: LettersInRedis) -> None:
    letter_id = letter_log.add_letter(agent="", message="", task="plain.pay", kwargs={"cents": -5})
    assert '"cents": 5' in dead_letters_json(shop, "edit", letter_id, '{"cents": 5}', "--dry-run")["diff"]
    refused = invoke(shop.app, dead_letters, "edit", letter_id, '{"cents": 5}')
    assert refused.exit_code == 2
    assert "confirm with --yes" in refused.stderr
    assert invoke(shop.app, dead_letters, "edit", letter_id, "nonsense").exit_code == 2
    assert dead_letters_json(shop, "edit", letter_id, '{"cents": 5}', "--yes")["queue"] == "billing"
    assert dead_letters_json(shop, "list")["count"] == 0


def test_letters_are_parked_and_unparked(shop: Orchestrator, letter_log: LettersInRedis) -> None:
    letter_id = letter_log.add_letter()
    other = letter_log.add_letter()
    parked = dead_letters_json(shop, "park", letter_id, "--note", "ask the bank", "--who", "ann")
    assert parked == {"parked": 1, "ids": [letter_id]}
    assert dead_letters_json(shop, "list")["count"] == 1
    assert "ask the bank (ann)" in invoke(shop.app, dead_letters, "show", letter_id).stdout
    assert dead_letters_json(shop, "park", "--all", "--note", "too") == {"parked": 1, "ids": [other]}
    assert dead_letters_json(shop, "list", "--state", "parked")["count"] == 2
    assert dead_letters_json(shop, "unpark", letter_id) == {"unparked": 1, "ids": [letter_id]}
    assert dead_letters_json(shop, "unpark", "--all") == {"unparked": 1, "ids": [other]}


def test_only_what_is_meant_is_purged(shop: Orchestrator, letter_log: LettersInRedis) -> None:
    first, second, third = letter_log.add_letter(agent="shipping"), letter_log.add_letter(), letter_log.add_letter()
    assert dead_letters_json(shop, "purge", "--agent", "shipping", "--dry-run") == {"would_remove": 1}
    assert dead_letters_json(shop, "purge", "--agent", "shipping", "--yes") == {"removed": 1, "ids": [first]}
    assert dead_letters_json(shop, "purge", second, "--yes") == {"removed": 1, "ids": [second]}
    assert [letter["id"] for letter in dead_letters_json(shop, "list")["letters"]] == [third]
    by_id, by_filter = dead_letters_json(shop, "audit")["audit"]
    assert (by_id["done"], by_id["detail"]) == (1, {"id": second})
    assert (by_filter["done"], by_filter["detail"]["filter"]["agent"]) == (1, "shipping")


def test_what_comes_while_somebody_is_asked_is_not_purged(
    shop: Orchestrator, letter_log: LettersInRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter_log.add_letter(agent="shipping")
    letter_log.add_letter()
    came: list[str] = []

    def can_ask() -> bool:
        came.append(letter_log.add_letter())
        return True

    monkeypatch.setattr("orchestrator.cli.dead_letters.options.can_ask", can_ask)
    for options, removed in ((("--agent", "shipping"), "1 dead letter"), (("--all",), "2 dead letters")):
        result = invoke(shop.app, dead_letters, "purge", *options, stdin="y\n")
        assert f"Remove {removed}?" in result.stderr
        assert result.stdout.endswith(f"\n{removed} removed\n")
    assert [letter["id"] for letter in dead_letters_json(shop, "list")["letters"]] == came[1:]


def test_letters_go_to_a_file_and_come_back(shop: Orchestrator, letter_log: LettersInRedis, tmp_path: Path) -> None:
    letter_log.add_letter()
    letter_log.add_raw_letter(b"\xff\x00")
    path, again = tmp_path / "letters", tmp_path / "again"
    assert dead_letters_json(shop, "export", str(path))["exported"] == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert dead_letters_json(shop, "purge", "--all", "--yes")["removed"] == 2
    assert dead_letters_json(shop, "import", str(path), "--dry-run") == {"valid": True}
    assert dead_letters_json(shop, "import", str(path)) == {"added": 2, "known": 0}
    assert dead_letters_json(shop, "import", str(path)) == {"added": 0, "known": 2}
    dead_letters_json(shop, "export", str(again))
    assert again.read_bytes() == path.read_bytes()

    path.write_bytes(path.read_bytes() + b"nonsense\n")
    bad = invoke(shop.app, dead_letters, "import", str(path))
    assert bad.exit_code == 2
    assert bad.stderr.startswith("Error: line 3: not JSON")
    assert bad.stderr.count("\n") == 1


def test_the_audit_log_fits_a_terminal_of_80_columns(
    shop: Orchestrator, letter_log: LettersInRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        letter_log.add_letter(body={"order_id": "o" * 300, "cents": 5})
    shop.dead_letters.query(agent="billing", error="ValueError").park("ask the bank " * 20, why="closed " * 40)
    monkeypatch.setattr(tables, "console", lambda _: tables.Console(80, colour=False))
    lines = invoke(shop.app, dead_letters, "audit").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("about" in line for line in lines)
    assert "No room for: dead again" in "\n".join(lines)
