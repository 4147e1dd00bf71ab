"""``celery -A APP send``: a supervised send from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.agents.unhandled_message import unknown_message
from orchestrator.app import Orchestrator
from orchestrator.cli.agents.undeclared import undeclared_message
from orchestrator.cli.durations import METAVAR, Duration
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.output.outcomes import outcome_document, outcome_line
from orchestrator.cli.output.printable import one_line
from orchestrator.cli.reported_errors import ExitCode, Stop, exit_codes, reported
from orchestrator.core.deliveries.outcome import Handled, Outcome
from orchestrator.core.errors import InfrastructureError, InvalidMessage, InvalidPolicy, SendFailed
from orchestrator.core.message import Message, decode
from orchestrator.core.policies.policy import OnError, Retry, WhenDown, WhenOpen
from orchestrator.core.secrets.secret_names import secret_names
from orchestrator.sending.delivery import Delivery

_EXIT_CODES = exit_codes(
    ExitCode.PENDING, ExitCode.REFUSED, ok="sent; with --wait: handled", failed="with --wait: it was not handled"
)


def _patience(context: click.Context, parameter: click.Parameter, seconds: float | None) -> float | None:
    # Checked here, because it is used only after the message is on its way.
    if seconds is not None and not 0 < seconds <= 24 * 3600:
        raise click.BadParameter(f"{seconds} is not allowed; allowed: above 0, at most 86400", context, parameter)
    return seconds


def _pairs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for value in values:
        key, sign, text = value.partition("=")
        if not key or not sign:
            raise click.BadParameter(f"{value!r} is not allowed; allowed: KEY=VALUE", context, parameter)
        pairs[key] = text
    return pairs


@click.command(cls=CeleryCommand, name="send", epilog=_EXIT_CODES)
@click.argument("agent")
@click.argument("message")
@click.argument("fields", metavar="JSON")
@click.option(
    "--wait",
    type=Duration(),
    metavar=METAVAR,
    callback=_patience,
    cls=CeleryOption,
    help="Wait at most this long for the outcome.",
)
@click.option("--retries", type=int, cls=CeleryOption, help="Retries after the first attempt, instead of the agent's.")
@click.option(
    "--on-error",
    type=click.Choice([choice.value for choice in OnError]),
    cls=CeleryOption,
    help="What becomes of the message when its attempts are used up, instead of the agent's choice.",
)
@click.option("--countdown", type=Duration(), metavar=METAVAR, cls=CeleryOption, help="Time before it may be handled.")
@click.option(
    "--expires",
    type=Duration(),
    metavar=METAVAR,
    cls=CeleryOption,
    help="Time after which it is no longer to be handled.",
)
@click.option(
    "--dead-letter-expired/--no-dead-letter-expired",
    default=None,
    cls=CeleryOption,
    help="Whether it becomes a dead letter when it expires, rather than vanish.",
)
@click.option("--timeout", type=Duration(), metavar=METAVAR, cls=CeleryOption, help="Time that one attempt may take.")
@click.option(
    "--deadline",
    type=Duration(),
    metavar=METAVAR,
    cls=CeleryOption,
    help="Time within which all attempts must have ended.",
)
@click.option(
    "--when-down",
    type=click.Choice([choice.value for choice in WhenDown]),
    cls=CeleryOption,
    help="What becomes of it while no worker hosts the agent.",
)
@click.option(
    "--when-open",
    type=click.Choice([choice.value for choice in WhenOpen]),
    cls=CeleryOption,
    help="What becomes of it while the agent's circuit breaker is open.",
)
@click.option("--idempotency-key", cls=CeleryOption, help="Messages with the same key run once, within a day.")
@click.option("--priority", type=int, cls=CeleryOption, help="0 (first) to 9 (last).")
@click.option(
    "--metadata",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_pairs,
    cls=CeleryOption,
    help="Attached to the message for its handler and its dead letter; may be repeated.",
)
@as_json_option
@click.pass_context
@reported
def send(
    context: click.Context,
    agent: str,
    message: str,
    fields: str,
    wait: float | None,
    retries: int | None,
    on_error: str | None,
    countdown: float | None,
    expires: float | None,
    dead_letter_expired: bool | None,
    timeout: float | None,
    deadline: float | None,
    when_down: str | None,
    when_open: str | None,
    idempotency_key: str | None,
    priority: int | None,
    metadata: Mapping[str, str],
    as_json: bool,
) -> None:
    """Send MESSAGE with the fields in JSON to AGENT, and print the delivery's id.

    JSON is one object; "-" reads it from standard input. It is checked against the message's model if the app
    declares the agent; otherwise the agent checks it. With --wait, the outcome is printed too, and the exit code
    is 0 only if the message was handled.
    """
    orchestrator = orchestrator_of(context)
    built = build(orchestrator, agent, message, read_fields(message, fields))
    hidden = (*orchestrator.settings.redact, *secret_names(type(built)))
    delivery = orchestrator.send(
        agent,
        built,
        retry=_retry(orchestrator, agent, message, retries),
        on_error=on_error,
        countdown_s=countdown,
        expires_s=expires,
        dead_letter_expired=dead_letter_expired,
        timeout_s=timeout,
        deadline_s=deadline,
        when_down=when_down,
        when_open=when_open,
        idempotency_key=idempotency_key,
        priority=priority,
        metadata=metadata,
    )
    if not as_json:
        click.echo(f"{delivery.id}  {one_line(message)} to {one_line(agent)}")
    outcome: Outcome | None = None
    failed: InfrastructureError | None = None
    if wait is not None:
        try:
            outcome = await_outcome(delivery, wait)
        except InfrastructureError as error:
            # The message is on its way all the same, so its id is still to be printed.
            failed = error
    _print(delivery, outcome, hidden, as_json=as_json)
    if failed is not None:
        raise failed
    if outcome is not None and not isinstance(outcome, Handled):
        raise Stop(f"delivery {delivery.id} was not handled", ExitCode.NOT_HANDLED)


def read_fields(message: str, text: str) -> dict[str, Any]:
    """The message's fields.

    Raises:
        InvalidMessage: the text is not one JSON object.
    """
    try:
        if text == "-":
            text = sys.stdin.read()
        fields = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(message, [f"not JSON: {error}"]) from None
    if not isinstance(fields, dict):
        raise InvalidMessage(message, ["the JSON is not an object"])
    return fields


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def build(orchestrator: Orchestrator, agent: str, message: str, fields: Mapping[str, Any]) -> Message:
    """The message, checked against its model if the app declares the agent.

    Raises:
        UnknownAgent: the agent is unknown.
        UnknownMessage: the agent does not handle the message.
        InvalidMessage: the fields do not fit the model.
        BrokerUnavailable: Redis is away.
    """
    spec = orchestrator.agents.get(agent)
    if spec is None:
        announced = {} if orchestrator.eager else orchestrator.registry.agents()
        return undeclared_message(agent, message, fields, announced, orchestrator.agents)
    handler = spec.handlers.get(message)
    if handler is None:
        raise unknown_message(agent, message, spec.handlers)
    return decode(handler.message, fields, hidden=orchestrator.settings.redact)


def _retry(orchestrator: Orchestrator, agent: str, message: str, retries: int | None) -> Retry | None:
    if retries is None:
        return None
    try:
        return replace(orchestrator.runtime.directory.address(agent, message).policy.retry, max_retries=retries)
    except InvalidPolicy:
        raise InvalidPolicy("retries", retries, "a whole number from 0 to 1000") from None


def await_outcome(delivery: Delivery, timeout_s: float) -> Outcome:
    """The outcome, whatever it is.

    Raises:
        DeliveryTimeout: there is none yet.
        BrokerUnavailable: Redis is away.
    """
    try:
        return delivery.wait(timeout_s)
    except SendFailed as error:
        outcome: Any = error.outcome
        return outcome  # type: ignore[no-any-return]


def _print(delivery: Delivery, outcome: Outcome | None, hidden: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        shown = outcome_document(outcome, hidden)
        print_document({"id": delivery.id, "agent": delivery.agent, "message": delivery.message, "outcome": shown})
    elif outcome is not None:
        click.echo(outcome_line(outcome, hidden))
