"""Replies to an agent that has vanished: its mailbox keeps them, and its bound decides on what is sent after them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from orchestrator import Agent, Mailbox, MailboxFull, Message, Orchestrator, Reply, handles, replies
from orchestrator.core.policies.policy import WhenDown
from orchestrator.embedded import EmbeddedServer
from tests.apps.calls_app import Order
from tests.support.askers import APP, Askers
from tests.support.eventually import eventually
from tests.support.living_agents import close, mail, make
from tests.support.worker_process import WorkerProcess


class Quote(Message):
    number: int = 0


class Billing(Agent):
    name = "billing"

    @handles(Quote)
    def quote(self, message: Quote) -> int:
        return message.number


class Asker(Agent):
    """No worker hosts it; what waits longer than it says, expires."""

    name = "asker"
    expires_s = 0.001
    deadline_s = 0.001
    mailbox: ClassVar[Mailbox | None] = Mailbox(limit=2)

    @handles(Quote)
    def quote(self, message: Quote) -> None: ...

    @replies(Quote)
    def quoted(self, reply: Reply) -> None: ...


@pytest.fixture
def made(redis_url: str) -> Iterator[list[Orchestrator]]:
    apps: list[Orchestrator] = []
    yield apps
    for app in apps:
        close(app)


def asking(redis_url: str, made: list[Orchestrator], overflow: str) -> Orchestrator:
    """An app whose asker, hosted nowhere, has three replies in a mailbox for two."""
    asker = type("Asker", (Asker,), {"mailbox": Mailbox(limit=2, overflow=overflow, block_s=0.05)})
    made.append(make(redis_url, Billing, asker))
    orchestrator = made[-1]
    for number in range(3):
        orchestrator.runtime.asker.ask("asker", "billing", Quote(number=number), 0.02, {"number": number})

    def all_replied() -> bool:
        orchestrator.runtime.redis.timers.run()
        return len(mail(orchestrator, "asker")["asker"]) == 3

    eventually(all_replied)
    return orchestrator


def send(orchestrator: Orchestrator) -> Any:
    return orchestrator.send("asker", Quote(number=7), when_down=WhenDown.QUEUE, expires_s=60, deadline_s=60)


def waiting(orchestrator: Orchestrator) -> list[str]:
    """The messages in the asker's mailbox, the oldest first."""
    return [one["headers"]["orc"]["message"] for one in mail(orchestrator, "asker")["asker"]]


@pytest.mark.parametrize("overflow", ["reject", "block"])
def test_they_are_kept_beyond_the_bound_and_who_sends_after_them_is_refused(
    redis_url: str, made: list[Orchestrator], overflow: str
) -> None:
    orchestrator = asking(redis_url, made, overflow)
    with pytest.raises(MailboxFull):
        send(orchestrator)
    assert waiting(orchestrator) == ["reply_to_Quote"] * 3


def test_the_oldest_reply_is_dropped_to_the_dead_letters_where_the_bound_says_so(
    redis_url: str, made: list[Orchestrator]
) -> None:
    orchestrator = asking(redis_url, made, "drop_oldest")
    send(orchestrator)
    letters = orchestrator.dead_letters.list(10)
    kept = waiting(orchestrator)
    assert (len(letters) + len(kept), kept[-1]) == (4, "Quote")
    assert {letter.message for letter in letters} == {"reply_to_Quote"}
    assert len(kept) <= 3


def test_the_newest_is_dropped_where_the_bound_says_so(redis_url: str, made: list[Orchestrator]) -> None:
    orchestrator = asking(redis_url, made, "drop_newest")
    send(orchestrator)
    assert waiting(orchestrator) == ["reply_to_Quote"] * 3
    assert [letter.message for letter in orchestrator.dead_letters.list(10)] == ["Quote"]


def test_they_have_neither_deadline_nor_expiry_whatever_the_asker_says_of_its_messages(
    redis_url: str, made: list[Orchestrator]
) -> None:
    orchestrator = asking(redis_url, made, "reject")
    headers = [one["headers"] for one in mail(orchestrator, "asker")["asker"]]
    assert [(one["expires"], one["orc"].get("deadline_at_s")) for one in headers] == [(None, None)] * 3


def test_a_killed_asker_that_comes_back_late_gets_all_of_them() -> None:
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, name="asker", queues="bounded") as asker,
        WorkerProcess(APP, server.url, name="callee", queues="billing") as callee,
    ):
        cluster = Askers(server, asker, callee)
        orchestrator = cluster.orchestrator
        for number in (1, 2):
            orchestrator.send("bounded", Order(number=number, how="holds")).wait(timeout_s=20)
        eventually(lambda: cluster.redis.llen("test:begun"))
        asker.kill()
        for number in (1, 2):
            cluster.redis.rpush(f"test:go:{number}", 1)
        eventually(lambda: cluster.counts().get("handled") == 2, 20, callee.log)
        eventually(lambda: not any("bounded" in one.agents for one in orchestrator.registry.incarnations()), 20)
        assert cluster.row("bounded").pending == 2, "two replies in a mailbox for one"
        with pytest.raises(MailboxFull):
            orchestrator.send("bounded", Order(number=3), when_down=WhenDown.QUEUE)
        assert cluster.replies() == []
        asker.start()
        assert sorted(reply["result"] for reply in cluster.replied(2)) == [2, 4]
        cluster.idle()
        assert orchestrator.dead_letters.list(10) == []
        cluster.close()
