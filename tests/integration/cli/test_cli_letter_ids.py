"""What acts on dead letters prints their ids and their deliveries', and the record of acts counts truly."""

from __future__ import annotations

import json

import pytest

from orchestrator import Orchestrator
from orchestrator.cli.dead_letters.group import dead_letters
from orchestrator.cli.delivery import delivery as delivery_command
from tests.apps.shop import Refund
from tests.support.command_line import dead_letters_json, invoke
from tests.support.eventually import eventually
from tests.support.letters_under_test import LettersInRedis
from tests.support.worker_process import WorkerProcess


@pytest.mark.timeout(150)
def test_what_is_replayed_can_be_followed(redis_url: str, shop: Orchestrator) -> None:
    with WorkerProcess("tests.apps.shop", redis_url) as worker:
        sent = {shop.send("billing", Refund(order_id=f"o{n}"), track=n < 3).id for n in range(4)}
        eventually(lambda: shop.dead_letters.count() == 4, 30, worker.log)
    letters = {letter.id: letter.delivery_id for letter in shop.dead_letters.list()}
    assert set(letters.values()) == sent
    one, edited, *others = letters
    answer = dead_letters_json(shop, "replay", one)
    assert answer == {"id": one, "queue": "billing", "delivery_id": letters[one]}
    answer = dead_letters_json(shop, "edit", edited, '{"order_id": "o9"}', "--yes")
    assert (answer["id"], answer["delivery_id"]) == (edited, letters[edited])
    answer = dead_letters_json(shop, "replay", "--all")
    assert {(a["id"], a["delivery_id"]) for a in answer["letters"]} == {(i, letters[i]) for i in others}
    for delivery_id in sent:
        shown = json.loads(invoke(shop.app, delivery_command, "show", delivery_id, "--json").stdout)
        assert (shown["status"], shown["agent"]) == ("pending", "billing")


def test_ids_are_printed_before_what_they_come_to(shop: Orchestrator, letter_log: LettersInRedis) -> None:
    first, second = letter_log.add_letter(), letter_log.add_letter()
    parked = invoke(shop.app, dead_letters, "park", "--all", "--note", "n").stdout
    assert parked == f"{first}\n{second}\n2 dead letters parked\n"
    opened = invoke(shop.app, dead_letters, "unpark", "--all").stdout
    assert opened == f"{first}\n{second}\n2 dead letters open again\n"
    sent = invoke(shop.app, dead_letters, "replay", "--all", "--at-most", "1").stdout
    assert sent.startswith(f"{first} replayed to billing")
    assert sent.endswith("\n1 dead letter replayed; 0 of them dead again so far\n")
    assert invoke(shop.app, dead_letters, "purge", "--all", "--yes").stdout == f"{second}\n1 dead letter removed\n"
    acts = dead_letters_json(shop, "audit")["audit"]
    assert [(a["kind"], a["done"]) for a in acts] == [("purge", 1), ("replay", 1), ("unpark", 2), ("park", 2)]


def test_an_export_records_how_many_letters_it_wrote(shop: Orchestrator, letter_log: LettersInRedis) -> None:
    for _ in range(3):
        letter_log.add_letter()
    lines = shop.dead_letters.query().export()
    next(lines)
    del lines
    assert len(list(shop.dead_letters.query().export())) == 3
    assert [a.done for a in shop.dead_letters.audit()] == [3, 1]


def test_what_is_no_longer_known_of_an_audit_entry_is_not_shown_as_none(
    shop: Orchestrator, letter_log: LettersInRedis
) -> None:
    letter_log.add_letter()
    act = shop.dead_letters.query().replay(all=True).audit_id
    shop.runtime.store.client.delete(shop.runtime.store.keys.letter_audit_progress(act))
    (known,) = dead_letters_json(shop, "audit")["audit"]
    assert (known["done"], known["dead"]) == (None, None)
    assert "unknown" in invoke(shop.app, dead_letters, "audit").stdout


def test_show_begins_with_the_payload_and_the_users_own_frames(redis_url: str, shop: Orchestrator) -> None:
    with WorkerProcess("tests.apps.shop", redis_url) as worker:
        shop.send("billing", Refund(order_id="o1"))
        (letter,) = eventually(shop.dead_letters.list, 30, worker.log)
    shown = invoke(shop.app, dead_letters, "show", letter.id).stdout
    payload, frames, attempts, more, traceback = map(
        shown.index,
        ("Payload\n", "Your frames of attempt 3\n", "Failed attempts\n", "More\n", "Traceback of attempt 3\n"),
    )
    assert payload < frames < attempts < more < traceback
    assert '"order_id": "o1"' in shown[payload:frames]
    own = shown[frames:attempts]
    assert own.count("  File ") == 1
    assert "in refund" in own
    assert "ConnectionError: bank refused order o1" in own
    assert "content-type" not in shown
    assert "4111" not in shown
    wire = invoke(shop.app, dead_letters, "show", letter.id, "--raw").stdout
    assert "content-type" in wire
    assert "4111" not in wire
