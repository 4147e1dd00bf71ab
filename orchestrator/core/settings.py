"""Settings from the environment and a profile file. An error names the setting, its value and what is allowed."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_origin

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    SecretStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from orchestrator.core.admission.flow_policy import Breaker, Mailbox
from orchestrator.core.checks.broker_url import ALLOWED, is_served, problem_of, quoted, servers
from orchestrator.core.checks.text import is_text
from orchestrator.core.errors import InvalidPolicy, InvalidSettings
from orchestrator.core.policies.timeout_classes import (
    CLASS_NAME,
    PROFILE_VARIABLE,
    allowed_seconds,
    seconds_of,
    shown_seconds,
)
from orchestrator.core.policies.timeouts import Timeouts
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.secrets.redact import USUAL
from orchestrator.core.spelling.nearest import meant, nearest

#: Variables with our prefix that are not settings: the profile's path, the embedded server's binary, and where
#: `orchestrator health` looks.
_OTHER_VARIABLES = (
    PROFILE_VARIABLE,
    "ORCHESTRATOR_REDIS_SERVER",
    "ORCHESTRATOR_HEALTH_DIR",
    # By these the supervisor knows its processes.
    "ORCHESTRATOR_TREE",
    "ORCHESTRATOR_TREE_CHILD",
    "ORCHESTRATOR_TREE_BEAT",
)


def _policy(value: Any, build: ValidatorFunctionWrapHandler) -> Any:
    try:
        return build(value)
    except InvalidPolicy as error:
        raise ValueError(str(error)) from None


_Checked: Final = WrapValidator(_policy)


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        # pydantic would make 1 of true.
        raise ValueError("allowed: a number")
    return value


Seconds = Annotated[float, BeforeValidator(_no_truth), Field(gt=0, le=30 * 24 * 3600)]

_SECONDS: Final[TypeAdapter[float]] = TypeAdapter(Seconds)


def _seconds_or_class(value: Any) -> float | str:
    return value if isinstance(value, str) and CLASS_NAME.fullmatch(value) else _SECONDS.validate_python(value)


SecondsOrClass = Annotated[float | str, PlainValidator(_seconds_or_class)]


class _Environment(EnvSettingsSource):
    """Reads the environment. A list may be written with commas; an error names the variable and its value."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Read a list or a table from JSON, or a list from items with commas between them."""
        try:
            return json.loads(value)
        except ValueError:
            if get_origin(field.annotation) is tuple:
                return [item.strip() for item in value.split(",") if item.strip()]
            raise InvalidSettings(
                [f'{variable_of(field_name)}={masked_repr(value)}; allowed: JSON, such as {{"billing": …}}']
            ) from None


def variable_of(setting: str) -> str:
    """The environment variable of a setting."""
    return f"ORCHESTRATOR_{setting.upper()}"


class Settings(BaseSettings):
    """All settings with their defaults. Environment: ``ORCHESTRATOR_`` and the name in capitals.

    The environment wins over the profile file, which wins over the defaults.
    """

    model_config = SettingsConfigDict(env_prefix="ORCHESTRATOR_", extra="forbid", frozen=True)

    #: Redis' URL. It may hold a password, so it is a secret.
    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    #: Prefix of every key in Redis (kombu's ``global_keyprefix``).
    key_prefix: str = ""
    #: Seconds between two heartbeats of a worker.
    heartbeat_s: Seconds = 0.5
    #: When a heartbeat is older than this, the sweep checks whether the worker's connection is open.
    heartbeat_timeout_s: Seconds = 0.6
    #: An incarnation whose connection is open is declared dead when its last heartbeat is older than this.
    lease_s: Seconds = 10.0
    #: Whether each worker has a heart: a process that renews its lease while its interpreter is blocked, and proves its
    #: death.
    heart: bool = True
    #: A worker that sends heartbeats and has a free slot, but has not claimed for this long, is stuck if messages wait.
    stuck_s: Seconds = 10.0
    #: Seconds between two sweeps of the monitor manager; beat publishes the messages that start them.
    sweep_interval_s: Seconds = 1.0
    #: After this long without a sweep, a worker sweeps in the manager's place, and logs that.
    sweep_stale_s: Seconds = 3.0
    #: The version of your app, shown with its workers and their deaths.
    app_version: str = ""
    #: Worker deaths on one message before it is a dead letter.
    max_deaths: int = Field(default=3, ge=1, le=100)
    #: Seconds for which a delivery's outcome is kept.
    outcome_ttl_s: Seconds = 3600.0
    #: A message of more bytes than this in Redis is refused at every send (``MessageTooLarge``). A script that moves
    #: one blocks Redis: 3 ms at 1 MiB, 40 ms at 8 MiB, more than 1 s at 64 MiB.
    max_message_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=512 * 1024 * 1024)
    #: Handlers that get every event. Where Celery's events are on, its monitors get the important ones in any case.
    telemetry: tuple[Literal["logging", "prometheus", "opentelemetry"], ...] = ()
    #: First port on the loopback interface for Prometheus; each worker takes a free one from there on. 0: none.
    metrics_port: int = Field(default=0, ge=0, le=65535)
    #: A monitor older than this is reported as a leak, even if its owner and its target live.
    monitor_leak_age_s: Seconds = 24 * 3600.0
    #: Seconds between two searches of the monitor manager for leaked monitors.
    leak_check_every_s: Seconds = 60.0
    #: Whether a monitor records the place in the code that made it: always, one in sixteen, or never.
    monitor_origins: Literal["on", "sampled", "off"] = "sampled"
    #: Longest time of an attempt for which neither code, settings nor send have a timeout. 0: none.
    default_timeout_s: float = Field(default=0.0, ge=0, le=30 * 24 * 3600)
    #: Names for timeouts, such as ``long``: declarations and ``timeouts`` may have a name in place of seconds.
    timeout_classes: dict[str, Seconds] = {}
    #: Longest time of an attempt, by ``agent.Message``, ``agent``, task or pattern; the most specific wins.
    timeouts: dict[str, SecondsOrClass] = {}
    #: Longest time of all attempts of a send with their pauses, by the same keys.
    deadlines: dict[str, Seconds] = {}
    #: Multiplies every timeout and deadline, wherever it comes from; for slow machines.
    timeout_factor: float = Field(default=1.0, gt=0, le=1000)
    #: An attempt that continues this long after its timeout is killed with its process, if the pool can do that.
    kill_after_s: Seconds = 5.0
    #: Bounds of mailboxes by agent's name or pattern (``{"billing-*": {"limit": 1000, "overflow": "reject"}}``); the
    #: most specific one counts, and overrides the agent's declaration.
    mailboxes: dict[str, Annotated[Mailbox, _Checked]] = Field(default_factory=dict)
    #: Circuit breakers by the same keys (``{"*": {"failures": 5, "window_s": 30, "open_s": 10}}``).
    breakers: dict[str, Annotated[Breaker, _Checked]] = Field(default_factory=dict)
    #: Longest result of a workflow's step or of an ask, as JSON; a longer one makes the message dead.
    result_limit_bytes: int = Field(default=1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    #: How long a workflow's run is kept after its end.
    workflow_keep_s: float = Field(default=7 * 86400.0, gt=0, le=10 * 365 * 24 * 3600)
    #: After this long without a scheduler, a worker that consumes ``monitor-manager`` schedules in beat's place, and
    #: logs that; after twice as long, any worker.
    scheduler_stale_s: Seconds = 3.0
    #: When a schedule is overdue by more than this, ``orchestrator health --schedules`` says so.
    scheduler_late_s: Seconds = 60.0
    #: Fires of schedules a second, at most; 0: no limit.
    scheduler_rate: float = Field(default=0.0, ge=0, le=1_000_000)
    #: Most schedules there may be; one more is refused.
    schedules_most: int = Field(default=1_000_000, ge=1)
    #: Names of tasks that only other apps have, or patterns of such: entries of ``beat_schedule`` may name them.
    foreign_tasks: tuple[str, ...] = ()
    #: Entries of the history of fires that are kept, of all schedules together.
    schedule_history: int = Field(default=50_000, ge=100, le=100_000_000)
    #: An open dead letter older than this is removed, and an event is emitted.
    dead_letter_ttl_s: float = Field(default=86400.0, gt=0, le=10 * 365 * 24 * 3600)
    #: When there are more dead letters than this, the oldest are removed, and an event is emitted.
    dead_letter_max_count: int = Field(default=1_000_000, ge=1)
    #: Automatic replays of a dead letter before it is parked; 0: none. Only failures that may pass are replayed so:
    #: retries exhausted, timeouts, full mailboxes.
    dead_letter_auto_replays: int = Field(default=0, ge=0, le=5)
    #: Seconds until the first automatic replay; each further one waits twice as long.
    dead_letter_first_replay_s: Seconds = 60.0
    #: Seconds between two runs of the monitor manager's maintenance of dead letters.
    dead_letter_maintenance_interval_s: Seconds = 10.0
    #: Whether an expired message becomes a dead letter, unless agent, handler or send say otherwise.
    dead_letter_expired: bool = False
    #: Eviction policies of Redis that a worker accepts: none; ``volatile`` ones, which delete idempotency keys and
    #: outcomes; or ``any``, which delete mailboxes too.
    eviction: Literal["refuse", "volatile", "any"] = "refuse"
    #: Names of fields whose values are never shown (case does not matter).
    redact: tuple[str, ...] = USUAL

    @field_validator("broker_url")
    @classmethod
    def _redis_only(cls, url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        if not is_served(text):
            raise ValueError(ALLOWED)
        for server in servers(text):
            if why := problem_of(server):
                raise ValueError(why)
        return url

    @field_validator("key_prefix", "app_version")
    @classmethod
    def _utf8(cls, text: str) -> str:
        if not is_text(text):
            raise ValueError("allowed: text that can be written as UTF-8")
        return text

    @field_validator("timeout_classes")
    @classmethod
    def _class_names(cls, classes: dict[str, float]) -> dict[str, float]:
        for name in classes:
            if not CLASS_NAME.fullmatch(name):
                raise ValueError(f"{masked_repr(name)} is no name; allowed: a letter, then letters, digits, '_', '-'")
        return classes

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_only(cls, value: Any, info: ValidationInfo) -> Any:
        return _no_truth(value) if cls.model_fields[str(info.field_name)].annotation in (int, float) else value

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        if not self.heartbeat_s < self.heartbeat_timeout_s < self.lease_s:
            raise ValueError(
                f"heartbeat_s={self.heartbeat_s:g}, heartbeat_timeout_s={self.heartbeat_timeout_s:g}, "
                f"lease_s={self.lease_s:g}; "
                "allowed: heartbeat_s < heartbeat_timeout_s < lease_s"
            )
        if not self.stuck_s > 2:
            raise ValueError(f"stuck_s={self.stuck_s:g}; allowed: more than 2, for a free worker may sleep a second")
        if not self.sweep_interval_s < self.sweep_stale_s:
            raise ValueError(
                f"sweep_interval_s={self.sweep_interval_s:g}, sweep_stale_s={self.sweep_stale_s:g}; "
                "allowed: sweep_interval_s < sweep_stale_s"
            )
        last_replay_s = self.dead_letter_first_replay_s * 2 ** (self.dead_letter_auto_replays - 1)
        if self.dead_letter_auto_replays and last_replay_s >= self.dead_letter_ttl_s:
            raise ValueError(
                f"dead_letter_first_replay_s={self.dead_letter_first_replay_s:g}, "
                f"dead_letter_auto_replays={self.dead_letter_auto_replays}, "
                f"dead_letter_ttl_s={self.dead_letter_ttl_s:g}; allowed: dead_letter_ttl_s above {last_replay_s:g}, "
                "for which the last replay waits; the letter would expire first"
            )
        for name, said in self.timeouts.items():
            timeout_s = seconds_of(said, self.timeout_classes)
            if timeout_s is None:
                raise ValueError(f"timeouts[{name!r}]={said!r}; allowed: {allowed_seconds(said, self.timeout_classes)}")
            deadline_s = self.deadlines.get(name)
            if deadline_s is not None and timeout_s > deadline_s:
                raise ValueError(
                    f"timeouts[{name!r}]={shown_seconds(timeout_s)}; "
                    f"allowed: at most deadlines[{name!r}]={deadline_s:g}, which ends it first"
                )
        return self

    @property
    def time_limits(self) -> Timeouts:
        """The settings that are merged into policies, with the classes of timeouts looked up."""
        classes = self.timeout_classes
        return Timeouts(
            {name: seconds for name, said in self.timeouts.items() if (seconds := seconds_of(said, classes))},
            self.deadlines,
            self.timeout_factor,
            self.dead_letter_expired,
            self.default_timeout_s,
            classes,
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment precedes the arguments, which come from the profile file."""
        return _Environment(settings_cls), init_settings


def load_settings(profile: Path | None = None, **values: Any) -> Settings:
    """Settings from the environment, then ``values``, then the profile file (or the one in ``ORCHESTRATOR_CONFIG``).

    Raises:
        InvalidSettings: a value or the file is not usable; names the setting, its value and what is allowed.
    """
    _refuse_unknown_variables()
    if profile is None and os.environ.get(PROFILE_VARIABLE):
        profile = Path(os.environ[PROFILE_VARIABLE])
    from_file = _read(profile) if profile is not None else {}
    try:
        return Settings(**{**from_file, **values})
    except ValidationError as error:
        origins = dict.fromkeys(from_file, f"profile {profile}") | dict.fromkeys(values, "the caller")
        raise InvalidSettings(_problems(error, origins)) from None
    except SettingsError as error:
        raise InvalidSettings([str(error)]) from None


def _refuse_unknown_variables() -> None:
    prefix = "ORCHESTRATOR_"
    known = {*_OTHER_VARIABLES, *map(variable_of, Settings.model_fields)}
    names = [variable.removeprefix(prefix).lower() for variable in known]
    problems = []
    for variable in sorted(os.environ):
        if variable.upper().startswith(prefix) and variable.upper() not in known:
            # Without the prefix, which makes any two variables similar.
            near = nearest(variable[len(prefix) :], names)
            hint = f"; did you mean {variable_of(near)}?" if near else f"; allowed: {', '.join(sorted(known))}"
            problems.append(f"{variable}: no such setting{hint}")
    if problems:
        raise InvalidSettings(problems)


def _read(profile: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(profile.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSettings([f"profile {profile}: {error.strerror or error}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings([f"profile {profile}: not TOML: {error}"]) from None


def _short(name: str) -> str:
    """A name that somebody else has written."""
    return masked_repr(name)[1:-1]


def _problems(error: ValidationError, origins: Mapping[str, str]) -> list[str]:
    problems = []
    for item in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"])
        # pydantic's prefix of the text of our own validators.
        rule = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            allowed = f"; allowed: {', '.join(sorted(Settings.model_fields))}"
            problems.append(f"{_short(where)}: no such setting{allowed}{meant(where, Settings.model_fields)}")
        elif item["type"] == "unexpected_keyword_argument":
            *table, name = (str(part) for part in item["loc"])
            options = [f.name for f in fields(Mailbox if table[0] == "mailboxes" else Breaker)]
            allowed = f"; allowed: {', '.join(options)}"
            problems.append(f"{'.'.join(table)}: no such option {name!r}{meant(name, options) or allowed}")
        elif where == "broker_url":
            problems.append(f"{where}={quoted(item['input'])}: {rule}")
        elif not where:
            # The input is all settings, with the password.
            problems.append(f"{rule} ({_sources(rule, origins)})")
        else:
            problems.append(f"{where}={masked_repr(item['input'])}: {rule}")
        variable = variable_of(where.partition(".")[0])
        if where and variable in os.environ:
            problems[-1] += f"; said by {variable}"
    return problems


def _sources(rule: str, origins: Mapping[str, str]) -> str:
    """The source of each setting that a rule names."""
    names = dict.fromkeys(re.findall(r"(\w+)(?:\[[^]]*\])?=", rule))
    return ", ".join(f"{name} from {_source(name, origins)}" for name in names)


def _source(name: str, origins: Mapping[str, str]) -> str:
    variable = variable_of(name)
    return variable if variable in os.environ else origins.get(name, "the default")
