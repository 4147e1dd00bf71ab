"""`dead-letters` acting on many letters at once, on a real Redis."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Orchestrator
from orchestrator.cli.dead_letters import dead_letters
from tests.apps.shop import make
from tests.command_line import invoke
from tests.letters import ShelfInRedis


@pytest.fixture
def shop(redis_url: str) -> Orchestrator:
    return make(redis_url)


@pytest.fixture
def bench(redis_url: str) -> ShelfInRedis:
    return ShelfInRedis(redis_url, (), None)


def asked(shop: Orchestrator, *arguments: str) -> Any:
    result = invoke(shop.app, dead_letters, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_filters_choose_what_is_listed_and_sent_again(shop: Orchestrator, bench: ShelfInRedis) -> None:
    bench.bury(error="KeyError", metadata={"job": 1})
    other = bench.bury(error="ValueError")
    assert asked(shop, "list", "--error", "KeyError", "--metadata", "job=1")["count"] == 1
    assert asked(shop, "retry", "--error", "KeyError", "--dry-run") == {"would_retry": 1}
    assert asked(shop, "retry", "--error", "KeyError", "--why", "fixed")["sent"] == 1
    assert [letter["id"] for letter in asked(shop, "list")["letters"]] == [other]
    (act,) = asked(shop, "acts")["acts"]
    assert (act["kind"], act["why"], act["done"], act["detail"]["filter"]["error"]) == ("retry", "fixed", 1, "KeyError")
    assert "fixed" in invoke(shop.app, dead_letters, "acts").stdout


def test_all_letters_are_meant_only_if_that_is_said(shop: Orchestrator, bench: ShelfInRedis) -> None:
    bench.bury()
    for command in (("retry",), ("park", "--note", "n"), ("unpark",)):
        refused = invoke(shop.app, dead_letters, *command)
        assert refused.exit_code == 2
        assert refused.stderr == "Error: which letters? Give an ID, a filter, or --all\n"
    assert asked(shop, "retry", "--all")["sent"] == 1


def test_a_canary_that_stops_is_an_exit_code(shop: Orchestrator, bench: ShelfInRedis) -> None:
    bench.bury()
    bench.bury()
    result = invoke(shop.app, dead_letters, "retry", "--all", "--canary", "--wait", "0.05")
    assert result.exit_code == 1
    assert "1 dead letters sent again" in result.stdout
    assert "have not come to an end" in result.stderr


def test_groups_and_stats_are_shown(shop: Orchestrator, bench: ShelfInRedis) -> None:
    for _ in range(3):
        bench.bury(error="KeyError", text="token=S3CRET")
    (group,) = asked(shop, "groups")["groups"]
    assert (group["count"], sum(group["arrivals_24h"])) == (3, 3)
    shown = invoke(shop.app, dead_letters, "groups").stdout
    assert group["group"] in shown
    assert "█" in shown
    assert "S3CRET" not in shown
    stats = asked(shop, "stats")
    assert (stats["counts"]["open"], stats["by"]["error"]) == (3, {"KeyError": 3})
    assert "KeyError" in invoke(shop.app, dead_letters, "stats").stdout


def test_an_edit_shows_its_diff_and_asks(shop: Orchestrator, bench: ShelfInRedis) -> None:
    letter_id = bench.bury(agent="", message="", task="plain.pay", kwargs={"cents": -5})
    assert '"cents": 5' in asked(shop, "edit", letter_id, '{"cents": 5}', "--dry-run")["diff"]
    refused = invoke(shop.app, dead_letters, "edit", letter_id, '{"cents": 5}')
    assert refused.exit_code == 2
    assert "say --yes" in refused.stderr
    assert invoke(shop.app, dead_letters, "edit", letter_id, "nonsense").exit_code == 2
    assert asked(shop, "edit", letter_id, '{"cents": 5}', "--yes")["queue"] == "billing"
    assert asked(shop, "list")["count"] == 0


def test_letters_are_parked_and_unparked(shop: Orchestrator, bench: ShelfInRedis) -> None:
    letter_id = bench.bury()
    bench.bury()
    assert asked(shop, "park", letter_id, "--note", "ask the bank", "--who", "ann") == {"parked": 1}
    assert asked(shop, "list")["count"] == 1
    assert "ask the bank (ann)" in invoke(shop.app, dead_letters, "show", letter_id).stdout
    assert asked(shop, "park", "--all", "--note", "too") == {"parked": 1}
    assert asked(shop, "list", "--state", "parked")["count"] == 2
    assert asked(shop, "unpark", letter_id) == {"unparked": 1}
    assert asked(shop, "unpark", "--all") == {"unparked": 1}


def test_only_what_is_meant_is_purged(shop: Orchestrator, bench: ShelfInRedis) -> None:
    bench.bury(agent="shipping")
    bench.bury()
    assert asked(shop, "purge", "--agent", "shipping", "--dry-run") == {"would_remove": 1}
    assert asked(shop, "purge", "--agent", "shipping", "--yes") == {"removed": 1}
    assert asked(shop, "list")["count"] == 1


def test_letters_go_to_a_file_and_come_back(shop: Orchestrator, bench: ShelfInRedis, tmp_path: Path) -> None:
    bench.bury()
    bench.bury_raw(b"\xff\x00")
    path, again = tmp_path / "letters", tmp_path / "again"
    assert asked(shop, "export", str(path))["exported"] == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert asked(shop, "purge", "--yes") == {"removed": 2}
    assert asked(shop, "import", str(path), "--dry-run") == {"valid": True}
    assert asked(shop, "import", str(path)) == {"added": 2, "known": 0}
    assert asked(shop, "import", str(path)) == {"added": 0, "known": 2}
    asked(shop, "export", str(again))
    assert again.read_bytes() == path.read_bytes()

    path.write_bytes(path.read_bytes() + b"nonsense\n")
    bad = invoke(shop.app, dead_letters, "import", str(path))
    assert bad.exit_code == 2
    assert bad.stderr.startswith("Error: line 3: not JSON")
    assert bad.stderr.count("\n") == 1
