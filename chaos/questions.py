"""Who asks and who answers under chaos. A question carries a tag of its own, by which the witness knows it.

``how`` it was asked: ``then`` (the reply is a message to the agent that has asked), ``ask`` (it is fetched later),
``durable`` (a call whose fallback Redis sends) or ``value`` (a call that falls back to another agent, then to a value).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from uuid import uuid4

from chaos.witness import AWAY, witness
from orchestrator import (
    Agent,
    AgentDown,
    Ask,
    Context,
    Dead,
    DeliveryTimeout,
    FallbackDelivery,
    Handled,
    Message,
    Orchestrator,
    OrchestratorError,
    Outcome,
    Reply,
    Retry,
    Send,
    SendFailed,
    Value,
    handles,
    replies,
)

#: Agents, and their mailboxes. The understudy is who is called when the oracle does not answer.
ORACLE, UNDERSTUDY, ASKER = "oracle", "understudy", "asker"

#: Where the metadata of a durable fallback has the tag of its question.
FALLBACK = "fallback"

#: What a call falls back to at last.
DEFAULT = "nobody knows"

#: Shares of the questions that fail, and that are answered too late.
_FAILS, _IS_LATE = 0.2, 0.05

#: Time-outs in seconds, of a question and of one that is answered too late.
TIMEOUT_S = 8.0
_SHORT_S = 0.5

Cases = Literal["again", "fail"]


class Question(Message):
    """Takes a while, and is answered or not."""

    tag: str
    nap_s: float = 0.0
    fails: bool = False


class Wonder(Message):
    """Has the asker ask."""

    seed: int


class Oracle(Agent):
    """Answers."""

    name = ORACLE
    retry = Retry(max_retries=3)

    @handles(Question)
    def question(self, message: Question, context: Context) -> str:
        """Nap, and answer or fail; the fallback of a question succeeds."""
        is_fallback = bool(context.metadata.get(FALLBACK))
        where: dict[str, Any] = {
            "node": context.worker,
            "tag": message.tag,
            "delivery": context.id,
            "fallback": is_fallback,
        }
        witness().write("answering", **where)
        time.sleep(message.nap_s)
        if message.fails and not is_fallback:
            witness().write("unable", **where)
            raise ValueError(message.tag)
        witness().write("answered", **where)
        return answer_to(message.tag)


class Understudy(Oracle):
    """Answers the same."""

    name = UNDERSTUDY


class Asker(Agent):
    """Asks, and gets the replies as messages."""

    name = ASKER
    retry = Retry(max_retries=3)

    @handles(Wonder)
    def wonder(self, message: Wonder, context: Context) -> None:
        """Ask, and go on."""
        rng = random.Random(message.seed)
        question, timeout_s, on_death = drawn(rng)
        with intended("then", question.tag, timeout_s, on_death):
            ask = context.ask(ORACLE, question, then=True, tag=question.tag, timeout_s=timeout_s, on_death=on_death)
            witness().write("made", tag=question.tag, ask=ask)

    @replies(Question)
    def replied(self, reply: Reply, context: Context) -> None:
        """Write the reply to the witness."""
        witness().write(
            "reply", node=context.worker, tag=reply.tag, ask=reply.id, delivery=context.id, **_came_to(reply.outcome)
        )


def answer_to(tag: str) -> str:
    """The right answer."""
    return f"answer to {tag}"


def drawn(rng: random.Random) -> tuple[Question, float, Cases]:
    """A question, its time-out in seconds, and what the death of its worker means."""
    tag = uuid4().hex
    on_death: Cases = "fail" if rng.random() < 0.4 else "again"
    if rng.random() < _IS_LATE:
        return Question(tag=tag, nap_s=2 * _SHORT_S), _SHORT_S, on_death
    nap_s = rng.choice((0.0, 0.0, 0.01, 0.1))
    return Question(tag=tag, nap_s=nap_s, fails=rng.random() < _FAILS), TIMEOUT_S, on_death


@contextmanager
def intended(how: str, tag: str, timeout_s: float, on_death: str) -> Iterator[None]:
    """Write that a question is going to be asked, and whether nobody knows if it was."""
    witness().write("asking", tag=tag, how=how, timeout_s=timeout_s, on_death=on_death)
    try:
        yield
    except AWAY as error:
        witness().write("unasked", tag=tag, error=str(error)[:200])


def ask_somehow(orchestrator: Orchestrator, rng: random.Random) -> None:
    """Ask outside of a handler, and write what came of it."""
    question, timeout_s, on_death = drawn(rng)
    how = rng.choice(("ask", "durable", "value"))
    if how == "durable":
        # What is sent in its place runs the question again.
        on_death = "again"
    with intended(how, question.tag, timeout_s, on_death):
        try:
            match how:
                case "ask":
                    _fetch_twice(orchestrator, question, timeout_s, on_death)
                case "durable":
                    fallback: Any = [Send(durable=True, metadata={FALLBACK: question.tag})]
                    _write(question, _call(orchestrator, question, timeout_s, on_death, fallback))
                case _:
                    fallback = [Ask(UNDERSTUDY), Value(DEFAULT)]
                    _write(question, _call(orchestrator, question, timeout_s, on_death, fallback))
        except (SendFailed, DeliveryTimeout, AgentDown) as error:
            _write(question, error)


def _call(orchestrator: Orchestrator, question: Question, timeout_s: float, on_death: Cases, fallback: Any) -> Any:
    return orchestrator.call(ORACLE, question, timeout_s=timeout_s, on_death=on_death, fallback=fallback)


def _fetch_twice(orchestrator: Orchestrator, question: Question, timeout_s: float, on_death: Cases) -> None:
    asked = orchestrator.ask(ORACLE, question, timeout_s=timeout_s, on_death=on_death)
    witness().write("made", tag=question.tag, ask=asked.id)
    for _ in range(2):
        try:
            _write(question, asked.reply())
        except (SendFailed, DeliveryTimeout) as error:
            _write(question, error)


def _write(question: Question, came_to: Any) -> None:
    fields: dict[str, Any]
    match came_to:
        case FallbackDelivery():
            fields = {"outcome": "fell back", "why": type(came_to.error).__name__, "fallback": came_to.delivery.id}
        case SendFailed():
            outcome: Any = came_to.outcome
            fields = _came_to(outcome)
        case DeliveryTimeout():
            fields = _came_to(None)
        case OrchestratorError():
            fields = {"outcome": "refused", "why": type(came_to).__name__}
        case _:
            fields = {"outcome": "default" if came_to == DEFAULT else "handled", "result": came_to}
    witness().write("reply", tag=question.tag, **fields)


def _came_to(outcome: Outcome | None) -> dict[str, Any]:
    match outcome:
        case None:
            return {"outcome": "timeout"}
        case Handled(result=result):
            return {"outcome": "handled", "result": result}
        case Dead(reason=reason):
            return {"outcome": "dead", "why": reason}
        case _:
            return {"outcome": type(outcome).__name__.lower()}
