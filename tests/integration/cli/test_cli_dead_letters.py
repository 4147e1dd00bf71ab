"""`dead-letters` on a real Redis, with letters of every quality."""

import json

import pytest

from orchestrator import Orchestrator
from orchestrator.cli.dead_letters.group import dead_letters
from orchestrator.cli.send import send
from tests.support.command_line import invoke
from tests.support.worker_process import WorkerProcess


def add_letter(shop: Orchestrator, raw: bytes, letter: bytes = b"{}", deaths: bytes = b"") -> str:
    """A letter as the transport's scripts write it, whatever is in it."""
    entry = shop.runtime.store.client.xadd(
        shop.runtime.store.keys.dead_letters, {"m": raw, "letter": letter, "d": deaths}
    )
    return entry.decode() if isinstance(entry, bytes) else entry


def test_a_letter_tells_its_whole_story(shop: Orchestrator, redis_url: str) -> None:
    with WorkerProcess("tests.apps.shop", redis_url):
        arguments = ("billing", "Refund", '{"order_id": "o1", "card_number": "S3CRET"}', "--metadata", "token=S3CRET")
        sent = json.loads(invoke(shop.app, send, *arguments, "--wait", "20", "--json").stdout)
        letter_id = sent["outcome"]["letter_id"]

        listed = invoke(shop.app, dead_letters, "list").stdout
        assert letter_id in listed
        assert "retries exhausted" in listed

        shown = invoke(shop.app, dead_letters, "show", letter_id).stdout
        assert sent["id"] in shown
        assert (
            shown.count("ConnectionError: bank refused order o1") == 6
        )  # error, own frames, three attempts, traceback
        assert "Traceback of attempt 3" in shown
        document = json.loads(invoke(shop.app, dead_letters, "show", letter_id, "--json").stdout)
        assert [failure["attempt"] for failure in document["failures"]] == [1, 2, 3]
        assert document["raw"]["body"][0] == [{"order_id": "o1", "card_number": "**redacted**"}]
        assert document["raw"]["headers"]["task"] == "billing.Refund"
        for text in (listed, shown, json.dumps(document)):
            assert "S3CRET" not in text

        assert invoke(shop.app, dead_letters, "retry", letter_id).stdout == (
            f"{letter_id} replayed to billing as delivery {sent['id']}\n"
        )
        again = invoke(shop.app, dead_letters, "retry", letter_id)
        assert again.exit_code == 2
        assert again.stderr.startswith(f"Error: unknown dead letter '{letter_id}'; ")


@pytest.mark.parametrize("command", ["show", "retry"])
@pytest.mark.parametrize("letter_id", ["1-1", "nonsense", "99999999999999999999-0", ""])
def test_an_unknown_letter(shop: Orchestrator, command: str, letter_id: str) -> None:
    result = invoke(shop.app, dead_letters, command, letter_id)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(("Error: unknown dead letter", "Error: invalid letter id"))
    assert result.stderr.count("\n") == 1


HOSTILE = {
    "not UTF-8": b"\xff\xfe\x00\x1b[2J\x07 password=S3CRET",
    "cut off": b'{"body": "W1tdLHt9XQ==", "headers": {"password": "S3CRET',
    "not an object": b'["\\u001b[2J", 1]',
    "no body": b'{"headers": null, "properties": 7}',
    "a body that is not JSON": b'{"body": "//4=", "properties": {"body_encoding": "base64"}}',
    "numbers that are not JSON": b'{"body": "[[NaN, Infinity], {}]", "headers": {}}',
    "nested too deep": b'{"body": ' + b"[" * 100_000,
    "nothing": b"",
    "markup": b'"[bold red]x[/] :smile:"',
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_whatever_is_in_a_message_does_not_reach_the_terminal(shop: Orchestrator, raw: bytes) -> None:
    letter = json.dumps({"reason": "\x1b[31mred", "queue": "q\n\x07", "error": {"type": "E", "message": "\udcff\x9b"}})
    deaths = b'[{"reason": "\\u001bkilled", "by": "w1", "at": 1}, 7]'
    letter_id = add_letter(shop, raw, letter.encode(), deaths)
    for arguments in (("list",), ("show", letter_id)):
        shown = invoke(shop.app, dead_letters, *arguments)
        assert shown.exit_code == 0
        assert all(c.isprintable() or c == "\n" for c in shown.stdout)
        assert "S3CRET" not in shown.stdout
        assert "\\x1b[31mred" in shown.stdout
        document = invoke(shop.app, dead_letters, *arguments, "--json").stdout
        assert document.isascii()
        assert "S3CRET" not in document
        json.loads(document, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    shown_markup = invoke(shop.app, dead_letters, "show", letter_id).stdout
    if b"bold red" in raw:
        assert "[bold red]x[/] :smile:" in shown_markup


def test_pages_lead_to_the_oldest(shop: Orchestrator) -> None:
    ids = [add_letter(shop, b"{}") for _ in range(5)]
    pages, before = [], None
    while True:
        arguments = ("--before", before) if before else ()
        page = json.loads(invoke(shop.app, dead_letters, "list", "--limit", "2", "--json", *arguments).stdout)
        assert page["count"] == 5
        pages.append([letter["id"] for letter in page["letters"]])
        before = page["before"]
        if before is None:
            break
    assert [letter_id for page in pages for letter_id in page] == ids[::-1]
    assert invoke(shop.app, dead_letters, "list", "--limit", "2").stderr == f"Older letters: --before {ids[3]}\n"
    assert invoke(shop.app, dead_letters, "list", "--before", "nonsense").exit_code == 2
    assert invoke(shop.app, dead_letters, "list", "--limit", "0").exit_code == 2


def test_purging_asks_first(shop: Orchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke(shop.app, dead_letters, "purge", "--all").stdout == "0 dead letters removed\n"
    add_letter(shop, b"{}")
    add_letter(shop, b"{}")
    refused = invoke(shop.app, dead_letters, "purge", "--all")
    assert refused.exit_code == 2
    assert (
        refused.stderr
        == "Error: 2 dead letters would be removed; confirm with --yes, because stdin is not a terminal\n"
    )

    monkeypatch.setattr("orchestrator.cli.dead_letters.options.can_ask", lambda: True)
    declined = invoke(shop.app, dead_letters, "purge", "--all", stdin="n\n")
    assert declined.exit_code == 1
    assert "Remove 2 dead letters? [y/N]" in declined.stderr
    assert shop.dead_letters.count() == 2
    removed = invoke(shop.app, dead_letters, "purge", "--all", stdin="y\n").stdout
    assert removed.endswith("\n2 dead letters removed\n")

    last = add_letter(shop, b"{}")
    purged = json.loads(invoke(shop.app, dead_letters, "purge", "--all", "--yes", "--json").stdout)
    assert purged == {"removed": 1, "ids": [last]}
    assert shop.dead_letters.count() == 0
