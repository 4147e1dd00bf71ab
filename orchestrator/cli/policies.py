"""``celery -A APP policies``: what applies to each message, who says so, and what cannot be had."""

from __future__ import annotations

from typing import Any

import click
from celery.bin.base import CeleryCommand

from orchestrator.app import Orchestrator
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.reported_errors import EXIT_CODES, reported
from orchestrator.core.errors import UnknownAgent
from orchestrator.core.plural import counted
from orchestrator.core.policies.effective import Effective
from orchestrator.core.policies.policy import Constant, Exponential, Linear, Retry
from orchestrator.core.policies.timeout_classes import NamedSeconds
from orchestrator.sending.address import Address
from orchestrator.sending.send_options import POLICY_OPTIONS
from orchestrator.worker.misnamed_settings import misnamed_settings
from orchestrator.worker.served_tasks import served_addresses
from orchestrator.worker.startup_warnings import governed_tasks, pool_warnings, startup_warnings


@click.command(cls=CeleryCommand, name="policies", epilog=EXIT_CODES)
@click.argument("agent", required=False)
@as_json_option
@click.pass_context
@reported
def policies(context: click.Context, agent: str | None, as_json: bool) -> None:
    """Show the policy of every message of AGENT, or of all agents, and where each value comes from.

    Without AGENT, plain tasks for which the settings have a timeout or a deadline are shown, too.

    A value comes from the default, the agent, its handler, or the settings, the later the stronger; a send may say
    otherwise. Below it: what is asked for but cannot be had, or does not fit together.
    """
    orchestrator = orchestrator_of(context)
    known = orchestrator.runtime.directory.known_addresses()
    addresses = [address for address in known if agent in (None, address.agent)]
    if agent is not None and not addresses:
        raise UnknownAgent(agent, {address.agent for address in known})
    if agent is None:
        addresses += governed_tasks(orchestrator.app, orchestrator.settings.time_limits)
    said = list(dict.fromkeys([*startup_warnings(orchestrator.app, addresses), *_of_pools(orchestrator, addresses)]))
    if agent is None:
        said += misnamed_settings(orchestrator.runtime)
    factor = orchestrator.settings.timeout_factor
    if as_json:
        print_document({"policies": [_document(a) for a in addresses], "timeout_factor": factor, "remarks": said})
        return
    _show(context, addresses, factor, said)


def _of_pools(orchestrator: Orchestrator, addresses: list[Address]) -> list[str]:
    """The lines about what the pools of living workers cannot do for the messages that they serve."""
    if orchestrator.eager:
        return []
    queues: dict[str, set[str]] = {}
    for incarnation in orchestrator.registry.incarnations():
        queues.setdefault(incarnation.pool, set()).update(incarnation.queues)
    app, mailboxes = orchestrator.app, orchestrator.runtime.directory.mailboxes()
    return [
        line
        for pool in sorted(queues)
        for line in pool_warnings(pool, served_addresses(app, addresses, queues[pool], mailboxes))
    ]


def _document(address: Address) -> dict[str, Any]:
    policy = address.policy
    options = {}
    for name in POLICY_OPTIONS:
        value = _value(policy, name)
        shown = value.to_wire() if isinstance(value, Retry) else value
        options[name] = {"value": shown, "source": policy.sources.get(name, "default")}
        if isinstance(value, NamedSeconds):
            options[name]["class"] = value.name
    return {"agent": address.agent, "message": address.message, "options": options}


def _value(policy: Effective, name: str) -> Any:
    value = getattr(policy, name)
    return bool(value) if name == "dead_letter_expired" else value


def _show(context: click.Context, addresses: list[Address], factor: float, said: list[str]) -> None:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table, print_text

    out = console(context)
    for address in addresses:
        rows = [
            (name, _format_option(_value(address.policy, name)), address.policy.sources.get(name, "default"))
            for name in POLICY_OPTIONS
        ]
        print_table(out, address.task, ("option", "value", "from"), rows, fold=("value",))
    if not addresses:
        print_table(out, "Policies", (), [])
    if factor != 1:
        print_text(out, "Timeouts", f"  all timeouts and deadlines are multiplied by {factor:g}")
    print_text(out, "Remarks", "\n".join(f"  {line}" for line in said) or "  none")


def _format_option(value: Any) -> str:
    match value:
        case None:
            return "none"
        case NamedSeconds():
            return f"{float(value)} ({value.name})"
        case Retry(max_retries, backoff, never, on):
            only = f", only on {', '.join(map(str, on))}" if on else ""
            not_on = f", never on {', '.join(map(str, never))}" if never else ""
            return f"{counted(max_retries, 'retry', 'retries')}, {_pauses(backoff)}{only}{not_on}"
        case _:
            return str(value)


def _pauses(backoff: Exponential | Linear | Constant) -> str:
    jitter = f", jitter {backoff.jitter:g}" if backoff.jitter else ""
    match backoff:
        case Exponential(initial_s, factor, cap_s):
            return f"{initial_s:g} s times {factor:g} each, at most {cap_s:g} s{jitter}"
        case Linear(initial_s, step_s, cap_s):
            return f"{initial_s:g} s and {step_s:g} s more each, at most {cap_s:g} s{jitter}"
        case Constant(delay_s):
            return f"{delay_s:g} s each{jitter}"
