"""Checks the options of a schedule, all at once, and makes a definition of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict

from orchestrator.core.checks.numbers import is_number, plain
from orchestrator.core.errors import InvalidPolicy, InvalidSchedule
from orchestrator.core.policies.effective import Policy
from orchestrator.core.policies.policy import OnError, Retry, WhenDown
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules.cron_times import DstFold, DstGap
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.triggers import (
    LONGEST_MS,
    SHORTEST_MS,
    Cron,
    Interval,
    Once,
    Trigger,
    cron_faults,
    zone_faults,
)
from orchestrator.core.schedules.values import Misfire, Overlap, Recipient, Source
from orchestrator.core.schedules.zones import UnknownZone, zone
from orchestrator.core.spelling.nearest import nearest

#: A moment that has passed by more than this is refused as `at`, unless a grace is given.
_PAST_S: Final = 60.0

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_ONE_TIME: Final = "exactly one of cron, every_s, at, schedule"


class PeriodicOptions(TypedDict, total=False):
    """The options of a schedule but those that say when it is due. ``None`` is as if the option were not given."""

    #: An IANA time zone, as ``Europe/Berlin``; the Celery app's unless given.
    tz: str | None
    #: What happens to a time that the clock skips: ``"shift"`` or ``"skip"``.
    dst_gap: DstGap | str | None
    #: Which of two moments with the same local time counts: ``"first"``, ``"second"`` or ``"both"``.
    dst_fold: DstFold | str | None
    #: No time before this moment, which has a time zone.
    start: datetime | None
    #: No time after this moment, which has a time zone.
    end: datetime | None
    #: After this many fires the schedule has ended.
    max_runs: int | None
    #: Each fire is delayed by up to this long.
    jitter_s: float | None
    #: What happens to times that were not fired when they were due: ``"coalesce"``, ``"all"`` or ``"skip"``.
    misfire: Misfire | str | None
    #: A time that is later than this is missed.
    misfire_grace_s: float | None
    #: What happens while the last delivery has no outcome yet: ``"allow"``, ``"skip"`` or ``"buffer_one"``.
    overlap: Overlap | str | None
    #: Whether the schedule pauses itself when a delivery is not handled.
    pause_on_failure: bool | None
    #: As for a send.
    retry: Retry | None
    on_error: OnError | str | None
    timeout_s: float | None
    deadline_s: float | None
    expires_s: float | None
    priority: int | None
    when_down: WhenDown | str | None
    dead_letter_expired: bool | None
    metadata: Mapping[str, Any] | None


class ScheduleOptions(PeriodicOptions, total=False):
    """The options of a schedule; exactly one of these three says when it is due, or a schedule object of Celery's."""

    #: A cron expression of five fields, in the zone ``tz``.
    cron: str | None
    #: A fixed rate, in seconds; at least 0.1.
    every_s: float | None
    #: One moment, with a time zone.
    at: datetime | None


OPTIONS: Final = ScheduleOptions.__optional_keys__

#: Options that are a policy's.
POLICY: Final = (
    "retry", "on_error", "timeout_s", "deadline_s", "expires_s", "priority", "when_down", "dead_letter_expired"
)  # fmt: skip
_AS_GIVEN: Final = ("max_runs", "jitter_s", "misfire", "misfire_grace_s", "overlap", "pause_on_failure", "metadata")


def define(
    schedule_id: str,
    recipient: Recipient,
    options: Mapping[str, Any],
    *,
    now_ms: int,
    tz: str = "UTC",
    trigger: Trigger | None = None,
    source: Source = Source.DYNAMIC,
    owner: str = "",
) -> ScheduleDefinition:
    """A definition from a user's options.

    ``tz`` applies unless the options have one; ``trigger`` is what was given as ``schedule``.

    Raises:
        InvalidSchedule: names all faults.
        TypeError: there is no such option.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := sorted(given.keys() - OPTIONS):
        near = nearest(unknown[0], OPTIONS)
        raise TypeError(
            f"a schedule has no option {unknown[0]!r}{f'; did you mean {near!r}?' if near else ''}; "
            f"allowed: {', '.join(sorted(OPTIONS))}"
        )
    faults: list[ScheduleFault] = []
    found = _trigger(given, tz, trigger, faults)
    if isinstance(found, Once) and faults == []:
        _check_past(found, given, now_ms, faults)
    start_ms, end_ms = (_moment(name, given.get(name), faults) for name in ("start", "end"))
    policy = read_policy(given, faults)
    fields: dict[str, Any] = {name: given[name] for name in _AS_GIVEN if name in given}
    fields |= {"id": schedule_id, "recipient": recipient, "policy": policy, "source": source, "owner": owner}
    # Where the trigger has faults, the other fields are checked with one that has none.
    fields |= {"start_ms": start_ms, "end_ms": end_ms, "trigger": found or Once(0)}
    try:
        definition = ScheduleDefinition(**fields)
    except InvalidSchedule as error:
        raise InvalidSchedule(error.schedule_id, [*faults, *(_as_said(f, given) for f in error.faults)]) from None
    if faults:
        raise InvalidSchedule(schedule_id, faults)
    return definition


def read_policy(given: Mapping[str, Any], faults: list[ScheduleFault]) -> Policy:
    """The policy in some options; what is wrong with it is added to ``faults``."""
    policy: dict[str, Any] = {}
    for name in POLICY:
        if name in given:
            try:
                Policy(**{name: given[name]})
                policy[name] = given[name]
            except InvalidPolicy as error:
                allowed = str(error).partition("allowed: ")[2]
                faults.append(ScheduleFault(name, given[name], allowed))
    timeout_s, deadline_s = policy.get("timeout_s"), policy.get("deadline_s")
    if timeout_s is not None and deadline_s is not None and timeout_s > deadline_s:
        faults.append(ScheduleFault("timeout_s", timeout_s, f"at most deadline_s={deadline_s!r}"))
    return Policy(**policy)


def _as_said(fault: ScheduleFault, given: Mapping[str, Any]) -> ScheduleFault:
    """A fault of a field of the definition as one of the option that the user gave."""
    name = fault.field.removesuffix("_ms")
    if name == "end" and name in given:
        return ScheduleFault(name, given[name], f"a moment after start={given.get('start')}")
    return fault


def _trigger(given: Mapping[str, Any], tz: str, trigger: Trigger | None, faults: list[ScheduleFault]) -> Trigger | None:
    said = [name for name in ("cron", "every_s", "at") if name in given] + (["schedule"] if trigger else [])
    if len(said) != 1:
        given_text = f"{' and '.join(said)} are given together" if said else "nothing says when the schedule is due"
        faults.append(ScheduleFault("", given_text, _ONE_TIME))
    tz = given.get("tz", tz)
    options = [given.get(name) for name in ("dst_gap", "dst_fold")]
    if "cron" in given:
        found = cron_faults(given["cron"], tz, *options)
        faults += found
        return None if found else Cron(given["cron"], tz, *options)
    if "tz" in given:
        faults += zone_faults(tz)
    for name in ("dst_gap", "dst_fold"):
        if name in given and not isinstance(trigger, Cron):
            faults.append(ScheduleFault(name, given[name], "only with cron"))
    if "every_s" in given:
        return _interval(given["every_s"], faults)
    if "at" in given:
        at_ms = _moment("at", given["at"], faults)
        return None if at_ms is None else Once(at_ms)
    return trigger


def _interval(every_s: object, faults: list[ScheduleFault]) -> Interval | None:
    low_s, high_s = SHORTEST_MS / 1000, LONGEST_MS / 1000
    if not is_number(every_s, low_s, high_s):
        near = plain(low_s) if is_number(every_s) and 0 < every_s < low_s else ""
        faults.append(
            ScheduleFault("every_s", every_s, f"seconds from {plain(low_s)} to {plain(high_s)} (ten years)", near)
        )
        return None
    return Interval(round(every_s * 1000))


def _moment(name: str, value: object, faults: list[ScheduleFault]) -> int | None:
    """A moment in ms since 1970."""
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None or value.utcoffset() is None:
        near = f"{value.isoformat()}+00:00" if isinstance(value, datetime) else ""
        faults.append(ScheduleFault(name, str(value), "a datetime with a time zone", near))
        return None
    if value < _EPOCH:
        faults.append(ScheduleFault(name, str(value), "a moment since 1970"))
        return None
    return to_epoch_ms(value)


def to_epoch_ms(at: datetime) -> int:
    """A moment with a time zone as ms since 1970."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def to_datetime(at_ms: int, tz: str = "UTC") -> datetime:
    """Ms since 1970 as a moment in a zone, or in UTC if there is no such zone."""
    at = _EPOCH + timedelta(milliseconds=at_ms)
    try:
        return at if tz == "UTC" else at.astimezone(zone(tz))
    except UnknownZone:
        return at


def _check_past(once: Once, given: Mapping[str, Any], now_ms: int, faults: list[ScheduleFault]) -> None:
    grace_s = given.get("misfire_grace_s", _PAST_S)
    if is_number(grace_s, 0) and once.at_ms < now_ms - grace_s * 1000:
        late_s = (now_ms - once.at_ms) / 1000
        faults.append(
            ScheduleFault(
                "at",
                str(given["at"]),
                f"a moment that has not passed by more than {plain(grace_s)} s; it has by {plain(late_s)} s",
            )
        )
