"""The dead-letter stream: what is kept, found, sent again and removed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Dead, Handled
from orchestrator.core.errors import CallerError, UnknownDeadLetter
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.deadletters.replay import Canary
from tests.apps import agents_app as app
from tests.support.agents_cluster import hosted
from tests.support.cluster import Cluster
from tests.support.envelope import envelope
from tests.support.eventually import eventually

WAIT_S = 20


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    with hosted("threads", concurrency=2, environment={"ORCHESTRATOR_DEAD_LETTER_EXPIRED": "1"}) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """Without letters; the ledger goes on from the test before."""
    shared.idle()
    shared.orchestrator.dead_letters.purge(all=True)
    return shared


def add_letter(cluster: Cluster, text: str = "broken", **options: Any) -> DeadLetter:
    outcome = cluster.orchestrator.send("worker", app.Broken(text=text), **options).wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    return cluster.orchestrator.dead_letters.get(str(outcome.letter_id))


def test_a_letter_holds_the_message_byte_for_byte(cluster: Cluster) -> None:
    # Not as any JSON library writes it: order, spaces, escapes and numbers must survive. It fits no model, so it is not
    # tried again, which would write it anew.
    raw = json.dumps(envelope(task="worker.Broken", args=[{"text": 1}]), indent=3).replace('"text"', '"te\\u0078t"')
    entry = f" \n{raw}  ".encode()
    letter = cluster.letter_after(lambda: cluster.put(entry))
    assert letter.raw == entry


def test_letters_come_newest_first_and_page_by_page(cluster: Cluster) -> None:
    letters = [add_letter(cluster, f"n{n}") for n in range(5)]
    log = cluster.orchestrator.dead_letters
    assert log.count() == 5
    newest_first = [letter.id for letter in reversed(letters)]
    assert [letter.id for letter in log.list()] == newest_first
    first = log.list(2)
    then = log.list(2, before=first[-1].id)
    last = log.list(2, before=then[-1].id)
    assert [letter.id for letter in (*first, *then, *last)] == newest_first
    assert log.list(2, before=newest_first[-1]) == []
    assert log.get(letters[2].id) == letters[2]


def test_a_letter_shown_has_everything_but_secrets(cluster: Cluster) -> None:
    letter = add_letter(cluster, metadata={"job": 1, "token": "hunter2"})
    shown = letter.shown(cluster.orchestrator.settings.redact)
    assert shown["metadata"] == {"job": 1, "token": "**redacted**"}
    assert (shown["reason"], shown["attempts"], shown["agent"]) == ("retries exhausted", 3, "worker")
    assert [failure["attempt"] for failure in shown["failures"]] == [1, 2, 3]
    assert all("ValueError: broken" in failure["traceback"] for failure in shown["failures"])
    assert shown["raw_bytes"] == len(letter.raw)
    json.dumps(shown)


def test_a_replayed_letter_is_gone_from_the_log_and_accepted_anew(cluster: Cluster) -> None:
    before = cluster.row()
    cluster.redis.delete("test:go:again")
    outcome = cluster.orchestrator.send("worker", app.Flaky(failures=3), metadata={"job": 1}).wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    letter = cluster.orchestrator.dead_letters.get(str(outcome.letter_id))
    again = cluster.letter_after(lambda: cluster.orchestrator.dead_letters.replay(letter.id))
    assert again.id != letter.id
    assert again.replay_of == letter.id
    assert (again.attempts, len(again.failures), dict(again.metadata)) == (3, 3, {"job": 1})
    assert again.delivery_id == letter.delivery_id
    assert cluster.orchestrator.dead_letters.count() == 1
    cluster.idle()
    after = cluster.row()
    assert (after.accepted - before.accepted, after.dead - before.dead) == (2, 2)
    assert after.balanced


def test_a_letter_whose_cause_is_gone_is_handled_when_it_is_replayed(cluster: Cluster) -> None:
    raw = envelope(task="plain.add", args=[1, 2], headers={"id": "late", "retries": "x"})
    letter = cluster.letter_after(lambda: cluster.put(json.dumps(raw).encode()))
    assert letter.reason == "malformed"
    before = cluster.row()
    assert cluster.orchestrator.dead_letters.replay(letter.id) == letter.delivery_id
    cluster.idle()
    assert cluster.orchestrator.dead_letters.count() == 0
    assert cluster.row().handled == before.handled + 1


def test_who_waited_for_the_first_outcome_can_see_the_second(cluster: Cluster) -> None:
    cluster.redis.set("test:fail", "1")
    delivery = cluster.orchestrator.send("worker", app.FailsWhile(key="test:fail"))
    outcome = delivery.wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    cluster.redis.delete("test:fail")
    cluster.orchestrator.dead_letters.replay(str(outcome.letter_id))
    assert eventually(lambda: isinstance(delivery.outcome(), Handled))


def test_what_is_no_message_at_all_can_be_replayed_and_comes_back(cluster: Cluster) -> None:
    letter = cluster.letter_after(lambda: cluster.put(b"\xff\x00nonsense"))
    again = cluster.letter_after(lambda: cluster.orchestrator.dead_letters.replay(letter.id))
    assert again.raw == letter.raw == b"\xff\x00nonsense"
    assert cluster.row().balanced


def test_many_who_retry_one_letter_at_once_send_it_once(cluster: Cluster) -> None:
    letter = add_letter(cluster)
    before = cluster.row()
    done: list[str] = []
    refused: list[UnknownDeadLetter] = []
    gate = threading.Barrier(8)

    def retry() -> None:
        gate.wait()
        try:
            done.append(cluster.orchestrator.dead_letters.replay(letter.id))
        except UnknownDeadLetter as error:
            refused.append(error)

    threads = [threading.Thread(target=retry) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cluster.idle()
    assert (done, len(refused)) == ([letter.delivery_id], 7)
    assert cluster.row().accepted == before.accepted + 1


@pytest.mark.parametrize(
    "name", ["", "5-5", "nonsense", "-", "+", "5", "5-5-5", "99999999999999999999999-0", "0-0", "١-٠"]
)
def test_a_letter_that_is_not_there_is_unknown(cluster: Cluster, name: str) -> None:
    log = cluster.orchestrator.dead_letters
    for ask in (log.get, log.replay):
        with pytest.raises(UnknownDeadLetter, match="unknown dead letter"):
            ask(name)


@pytest.mark.parametrize("before", ["nonsense", "99999999999999999999999-0", "5-5-5", "١-٠"])
def test_a_page_before_nonsense_is_refused(cluster: Cluster, before: str) -> None:
    with pytest.raises(UnknownDeadLetter):
        cluster.orchestrator.dead_letters.list(before=before)


def test_purge_removes_all_and_says_how_many(cluster: Cluster) -> None:
    for n in range(3):
        add_letter(cluster, f"n{n}")
    before = cluster.row()
    log = cluster.orchestrator.dead_letters
    assert log.purge(all=True) == 3
    assert (log.count(), log.list(), log.purge(all=True)) == (0, [], 0)
    assert cluster.row() == before
    assert before.balanced


def test_purge_removes_more_than_one_batch(cluster: Cluster) -> None:
    with cluster.redis.pipeline() as pipe:
        for _ in range(4500):
            pipe.xadd(cluster.keys.dead_letters, {"m": "x"})
        pipe.execute()
    assert cluster.orchestrator.dead_letters.purge(all=True) == 4500


def test_a_letter_that_comes_while_others_are_purged_stays(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    log: Any = cluster.orchestrator.dead_letters
    cluster.redis.xadd(cluster.keys.dead_letters, {"m": "old"})
    look = log.store.newest

    def look_and_add(*args: Any) -> Any:
        seen = look(*args)
        cluster.redis.xadd(cluster.keys.dead_letters, {"m": "new"})
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(log.store, "newest", look_and_add)
        assert log.purge(all=True) == 1
    assert [letter.raw for letter in log.list()] == [b"new"]


def test_foreign_entries_in_the_stream_are_shown_not_stumbled_over(cluster: Cluster) -> None:
    cluster.redis.xadd(cluster.keys.dead_letters, {"something": "else"})
    cluster.redis.xadd(cluster.keys.dead_letters, {"m": b"\xff", "letter": b"\xff", "d": b"\xff"})
    cluster.redis.xadd(
        cluster.keys.dead_letters, {"m": b"{}", "letter": b'{"attempts": 1e999, "failures": 5}', "d": b"5"}
    )
    for letter in cluster.orchestrator.dead_letters.list():
        json.dumps(letter.shown(()))


def test_a_letter_of_no_queue_cannot_be_sent_anywhere(cluster: Cluster) -> None:
    entry: Any = cluster.redis.xadd(cluster.keys.dead_letters, {"m": b"{}"})
    with pytest.raises(CallerError, match="names no mailbox"):
        cluster.orchestrator.dead_letters.replay(entry.decode())
    assert cluster.orchestrator.dead_letters.count() == 1


def test_letters_of_two_prefixes_do_not_mix(cluster: Cluster) -> None:
    add_letter(cluster)
    other = app.make(cluster.url, key_prefix="other:")
    assert other.dead_letters.count() == 0
    assert [row for row in other.ledger() if row.accepted] == []
    other.app.close()


def test_a_letter_knows_where_and_when_it_was_handled_last(cluster: Cluster) -> None:
    letter = add_letter(cluster)
    assert letter.incarnation in [incarnation.id for incarnation in cluster.orchestrator.registry.incarnations()]
    assert 0 < letter.sent_ms <= letter.dead_lettered_ms
    assert letter.first_seen == letter.failures[0].at
    assert letter.group in [group.fingerprint for group in cluster.orchestrator.dead_letters.query().groups()]


def test_a_message_that_expires_becomes_a_letter_if_that_was_asked_for(cluster: Cluster) -> None:
    before = cluster.row()
    outcome = cluster.orchestrator.send("worker", app.Add(a=1, b=2), expires_s=0.05, countdown_s=0.1).wait(
        timeout_s=WAIT_S
    )
    assert isinstance(outcome, Dead)
    assert outcome.reason == "expired"
    letter = cluster.orchestrator.dead_letters.get(str(outcome.letter_id))
    assert (letter.reason, letter.error_type, letter.agent) == ("expired", "Expired", "worker")
    assert cluster.row().dead == before.dead + 1
    assert cluster.orchestrator.dead_letters.replay(letter.id) == letter.delivery_id
    cluster.idle()
    assert cluster.row().handled == before.handled + 1


def test_a_task_that_no_queue_is_bound_for_becomes_a_letter(cluster: Cluster) -> None:
    letter = cluster.letter_after(
        lambda: cluster.orchestrator.app.send_task("plain.add", args=[1, 2], exchange="nowhere", routing_key="celery")
    )
    assert (letter.reason, letter.task, letter.queue) == ("unroutable", "plain.add", "celery")
    cluster.orchestrator.dead_letters.replay(letter.id)
    cluster.idle()
    assert cluster.orchestrator.dead_letters.count() == 0


def test_a_letter_that_is_handled_after_all_is_resolved_and_its_canary_content(cluster: Cluster) -> None:
    cluster.redis.set("test:fail", "1")
    for _ in range(3):
        cluster.orchestrator.send("worker", app.FailsWhile(key="test:fail"), track=False)
    eventually(lambda: cluster.orchestrator.dead_letters.count() == 3)
    chosen = cluster.orchestrator.dead_letters.query(agent="worker", message="FailsWhile")
    done = chosen.replay(canary=Canary(wait_s=WAIT_S))
    assert (done.sent, bool(done.stopped)) == (1, True)
    cluster.redis.delete("test:fail")
    done = chosen.replay(canary=Canary(wait_s=WAIT_S))
    assert (done.sent, done.dead, done.stopped) == (3, 0, "")
    assert cluster.orchestrator.dead_letters.count() == 0


def test_a_canary_sees_a_worker_fail_without_a_letter(cluster: Cluster) -> None:
    log = cluster.orchestrator.dead_letters
    for _ in range(2):
        # What expires is dead-lettered here, whatever becomes of failures.
        cluster.orchestrator.send("worker", app.Broken(), on_error="log", expires_s=0.05, countdown_s=0.1)
    eventually(lambda: log.count() == 2, WAIT_S)
    done = log.query(agent="worker").replay(canary=Canary(wait_s=WAIT_S))
    assert (done.sent, done.dead) == (1, 1)
    assert "1 of 1 have died again" in done.stopped
    assert log.count() == 1
