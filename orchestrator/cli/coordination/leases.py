"""``celery -A APP leases``, ``elections`` and ``pools``: who holds what, and who waits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import click
from celery.bin.base import CeleryCommand

from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, limit_option, print_document
from orchestrator.cli.reported_errors import EXIT_CODES, reported
from orchestrator.coordination.named_leases import NameState
from orchestrator.core.coordination.lease import HeldPermit, Kind
from orchestrator.core.coordination.term import Term
from orchestrator.core.times import age

_LIMIT = 100_000

#: Columns that a narrow terminal leaves out, the first one first.
_DROPPED = ("fence", "since", "held")

_NOBODY = HeldPermit("", "", 0, 0, [])


@click.command(cls=CeleryCommand, name="leases", epilog=EXIT_CODES)
@limit_option(_LIMIT)
@as_json_option
@click.pass_context
@reported
def leases(context: click.Context, limit: int, as_json: bool) -> None:
    """List leases: who holds each, since when, the last fencing token, and how many wait."""
    found = orchestrator_of(context).coordination.leases(limit)
    if as_json:
        print_document({"leases": [_lease(state) for state in found]})
        return
    rows = [(state.name, *_held(state, _first(state)), state.waiting) for state in found]
    _print(context, f"Leases: {len(found)}", ("lease", "holder", "held", "fence", "waiting"), rows)


@click.command(cls=CeleryCommand, name="elections", epilog=EXIT_CODES)
@limit_option(_LIMIT)
@as_json_option
@click.pass_context
@reported
def elections(context: click.Context, limit: int, as_json: bool) -> None:
    """List elections: who leads, or why the last leader's term has ended, and how many candidates wait."""
    found = orchestrator_of(context).coordination.elections(limit)
    if as_json:
        print_document({"elections": [_election(state, term) for state, term in found]})
        return
    rows = [(state.name, *_term(term), state.waiting) for state, term in found]
    _print(context, f"Elections: {len(found)}", ("election", "leader", "term", "since", "ended", "waiting"), rows)


@click.command(cls=CeleryCommand, name="pools", epilog=EXIT_CODES)
@limit_option(_LIMIT)
@as_json_option
@click.pass_context
@reported
def pools(context: click.Context, limit: int, as_json: bool) -> None:
    """List pools and semaphores: what is held by whom, what is free, and how many wait."""
    coordination = orchestrator_of(context).coordination
    found = [*coordination.pools(limit), *coordination.semaphores(limit)][:limit]
    if as_json:
        print_document({"pools": [_pool(state) for state in found]})
        return
    rows = [
        (state.name, state.kind.value, holder.resource, *_held(state, holder), state.waiting)
        for state in found
        for holder in state.holders or (_NOBODY,)
    ]
    title = f"Pools and semaphores: {len(found)}"
    _print(context, title, ("name", "kind", "resource", "holder", "held", "fence", "waiting"), rows)


def _first(state: NameState) -> HeldPermit:
    return next(iter(state.holders), _NOBODY)


def _held(state: NameState, holder: HeldPermit) -> tuple[str, str, str]:
    if not holder.fence:
        # After an incident, the last token says what a resource may have seen.
        return "nobody", "", str(state.fence)
    return holder.owner, age(_age_s(holder.since_ms / 1000)), str(holder.fence)


def _term(term: Term | None) -> tuple[str, str, str, str]:
    if term is None:
        return "nobody", "", "", ""
    return ("nobody" if term.ended else term.leader), str(term.number), age(_age_s(term.since_s)), term.reason


def _age_s(since_s: float) -> float:
    return max(0.0, time.time() - since_s)


def _print(context: click.Context, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

    print_table(
        console(context),
        title,
        columns,
        list(rows),
        fold=columns[:1],
        drop=[name for name in _DROPPED if name in columns],
    )


def _holder(holder: HeldPermit) -> dict[str, Any]:
    until_s = holder.until_ms / 1000 if holder.until_ms else None
    held = {"owner": holder.owner, "fence": holder.fence, "since_s": holder.since_ms / 1000, "until_s": until_s}
    return held | ({"resource": holder.resource} if holder.resource else {})


def _lease(state: NameState) -> dict[str, Any]:
    first = _first(state)
    holder = _holder(first) if first.fence else None
    return {"name": state.name, "fence": state.fence, "holder": holder, "waiting": state.waiting}


def _election(state: NameState, term: Term | None) -> dict[str, Any]:
    seen = None
    if term is not None:
        seen = {"number": term.number, "leader": term.leader, "since_s": term.since_s}
        seen |= {"ended_s": term.ended_s, "reason": term.reason or None}
    return {"name": state.name, "last_term": seen, "waiting": state.waiting}


def _pool(state: NameState) -> dict[str, Any]:
    known: dict[str, Any] = {
        "name": state.name,
        "kind": state.kind.value,
        "fence": state.fence,
        "permits": state.permits,
        "waiting": state.waiting,
    }
    held = [_holder(holder) for holder in state.holders]
    if state.kind is Kind.POOL:
        taken = {holder.resource for holder in state.holders}
        known["free"] = [resource for resource in state.resources if resource not in taken]
    return {**known, "held": held}
