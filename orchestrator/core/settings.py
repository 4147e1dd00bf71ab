"""Settings from the environment and a profile file. A bad value names itself, its value and what is allowed."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_origin

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
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

from orchestrator.core.broker_url import ALLOWED, is_served, problem_of, quoted, servers
from orchestrator.core.errors import InvalidPolicy, InvalidSettings
from orchestrator.core.flow_policy import Breaker, Mailbox
from orchestrator.core.nearest import meant
from orchestrator.core.redact import USUAL
from orchestrator.core.timeouts import Timeouts

#: Environment variable that names the profile file.
PROFILE_VARIABLE = "ORCHESTRATOR_CONFIG"

#: Variables with our prefix that are not settings: the profile's path, the embedded server's binary, and where
#: `orchestrator health` looks.
_OTHER_VARIABLES = (PROFILE_VARIABLE, "ORCHESTRATOR_REDIS_SERVER", "ORCHESTRATOR_HEALTH_DIR")


def _policy(value: Any, build: ValidatorFunctionWrapHandler) -> Any:
    try:
        return build(value)
    except InvalidPolicy as error:
        raise ValueError(str(error)) from None


_Checked: Final = WrapValidator(_policy)

Seconds = Annotated[float, Field(gt=0, le=30 * 24 * 3600)]


class _Environment(EnvSettingsSource):
    """The environment, in which a list may be written with commas, and an error names the variable and its value."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """A list or a table: JSON, or of a list its items with commas between them."""
        try:
            return json.loads(value)
        except ValueError:
            if get_origin(field.annotation) is tuple:
                return [item.strip() for item in value.split(",") if item.strip()]
            raise InvalidSettings(
                [f'{variable_of(field_name)}={value!r}; allowed: JSON, such as {{"billing": …}}']
            ) from None


def variable_of(setting: str) -> str:
    """The environment variable of a setting."""
    return f"ORCHESTRATOR_{setting.upper()}"


class Settings(BaseSettings):
    """Everything that can be set, with its default. Environment: ``ORCHESTRATOR_`` and the name in capitals.

    The environment wins over the profile file, which wins over the defaults.
    """

    model_config = SettingsConfigDict(env_prefix="ORCHESTRATOR_", extra="forbid", frozen=True)

    #: Where Redis is. Secret because it may hold a password.
    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    #: Prefix of every key in Redis (kombu's ``global_keyprefix``).
    key_prefix: str = ""
    #: Between two heartbeats of a worker.
    heartbeat_s: Seconds = 0.5
    #: A heartbeat older than this has the sweep look whether the connection is still open.
    suspect_s: Seconds = 0.6
    #: Silence with an open connection is death only after this.
    lease_s: Seconds = 10.0
    #: Whether a small process beside each worker speaks for it while its interpreter is held up, and proves its death.
    heart: bool = True
    #: A worker that beats and has a free hand, but has asked for no message for this long, is stuck if some wait.
    stuck_s: Seconds = 10.0
    #: How often beat has the monitor manager sweep.
    sweep_interval_s: Seconds = 1.0
    #: Without a sweep for this long, any worker sweeps in the manager's place, and says so.
    sweep_stale_s: Seconds = 3.0
    #: The version of your app, shown with its workers and their deaths.
    app_version: str = ""
    #: Worker deaths on one message before it is a dead letter.
    max_deaths: int = Field(default=3, ge=1, le=100)
    #: How long a delivery's outcome can be asked for.
    outcome_ttl_s: Seconds = 3600.0
    #: A message of more bytes than this, as it would lie in Redis, is refused at every send (``MessageTooLarge``). A
    #: script that moves one keeps Redis from all others: 3 ms at 1 MiB, 40 ms at 8 MiB, more than 1 s at 64 MiB.
    max_message_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=512 * 1024 * 1024)
    #: Who hears of every event; Celery's watchers hear of the important ones in any case, where its events are on.
    telemetry: tuple[Literal["logging", "prometheus", "opentelemetry"], ...] = ()
    #: First port on the loopback interface where a worker answers Prometheus, each its own; 0 for none.
    metrics_port: int = Field(default=0, ge=0, le=65535)
    #: A monitor older than this is reported as a leak, though its owner and its target live.
    monitor_leak_age_s: Seconds = 24 * 3600.0
    #: How often the monitor manager goes on looking for leaked monitors, with a sweep.
    leak_check_every_s: Seconds = 60.0
    #: Whether monitors remember where in the code they were made: always, one in sixteen, or never.
    monitor_origins: Literal["on", "sampled", "off"] = "sampled"
    #: Longest time of an attempt, by ``agent.Message``, ``agent``, task or pattern; the most specific wins.
    timeouts: dict[str, Seconds] = {}
    #: Longest time of all attempts of a send with their pauses, likewise.
    deadlines: dict[str, Seconds] = {}
    #: Multiplies every timeout and deadline, wherever it comes from; for slow machines.
    timeout_factor: float = Field(default=1.0, gt=0, le=1000)
    #: An attempt that goes on for so long after its timeout is killed with its process, where the pool can.
    kill_after_s: Seconds = 5.0
    #: Bounds of mailboxes by agent's name or pattern (``{"billing-*": {"limit": 1000, "overflow": "reject"}}``); the
    #: most specific one counts, and more than what the agent declares.
    mailboxes: dict[str, Annotated[Mailbox, _Checked]] = Field(default_factory=dict)
    #: Circuit breakers, likewise (``{"*": {"failures": 5, "window_s": 30, "open_s": 10}}``).
    breakers: dict[str, Annotated[Breaker, _Checked]] = Field(default_factory=dict)
    #: A dead letter that is open and older than this is removed, and that is said.
    dead_letter_ttl_s: float = Field(default=86400.0, gt=0, le=10 * 365 * 24 * 3600)
    #: Of more dead letters than this, the oldest are removed, and that is said.
    dead_letter_max_count: int = Field(default=1_000_000, ge=1)
    #: How often a dead letter is sent again by itself before it is parked; 0: never. Only what may pass by itself is:
    #: retries exhausted, timeouts, full mailboxes.
    dead_letter_auto_replays: int = Field(default=0, ge=0, le=5)
    #: Until the first automatic retry; each further one waits twice as long.
    dead_letter_first_replay_s: Seconds = 60.0
    #: How often the monitor manager looks after the dead letters, with a sweep.
    dead_letter_maintenance_interval_s: Seconds = 10.0
    #: Whether a message that expires becomes a dead letter instead of a mere count, unless agent, handler or send say.
    dead_letter_expired: bool = False
    #: Which eviction policies of Redis a worker accepts: none; ``volatile`` ones, which delete idempotency keys and
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

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        if not self.heartbeat_s < self.suspect_s < self.lease_s:
            raise ValueError(
                f"heartbeat_s={self.heartbeat_s:g}, suspect_s={self.suspect_s:g}, lease_s={self.lease_s:g}; "
                "allowed: heartbeat_s < suspect_s < lease_s"
            )
        if not self.stuck_s > 2:
            raise ValueError(f"stuck_s={self.stuck_s:g}; allowed: more than 2, for a free worker may sleep a second")
        if not self.sweep_interval_s < self.sweep_stale_s:
            raise ValueError(
                f"sweep_interval_s={self.sweep_interval_s:g}, sweep_stale_s={self.sweep_stale_s:g}; "
                "allowed: sweep_interval_s < sweep_stale_s"
            )
        last_retry_s = self.dead_letter_first_replay_s * 2 ** (self.dead_letter_auto_replays - 1)
        if self.dead_letter_auto_replays and last_retry_s >= self.dead_letter_ttl_s:
            raise ValueError(
                f"dead_letter_first_replay_s={self.dead_letter_first_replay_s:g}, "
                f"dead_letter_auto_replays={self.dead_letter_auto_replays}, "
                f"dead_letter_ttl_s={self.dead_letter_ttl_s:g}; allowed: dead_letter_ttl_s above {last_retry_s:g}, "
                "for which the last retry waits; the letter would expire first"
            )
        for name, timeout_s in self.timeouts.items():
            deadline_s = self.deadlines.get(name)
            if deadline_s is not None and timeout_s > deadline_s:
                raise ValueError(
                    f"timeouts[{name!r}]={timeout_s:g}; allowed: at most deadlines[{name!r}]={deadline_s:g}, "
                    "which ends it first"
                )
        return self

    @property
    def time_limits(self) -> Timeouts:
        """What the settings say about timeouts."""
        return Timeouts(self.timeouts, self.deadlines, self.timeout_factor, self.dead_letter_expired)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before what is passed in, because what is passed in is the profile file."""
        return _Environment(settings_cls), init_settings


def load_settings(profile: Path | None = None, **values: Any) -> Settings:
    """Settings from the environment, then ``values``, then the profile file (or the one in ``ORCHESTRATOR_CONFIG``).

    Raises:
        InvalidSettings: a value, or the file, is not usable; says which setting, its value and what is allowed.
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
    known = {*_OTHER_VARIABLES, *(f"{prefix}{name.upper()}" for name in Settings.model_fields)}
    problems = []
    for variable in sorted(os.environ):
        if variable.upper().startswith(prefix) and variable.upper() not in known:
            near = difflib.get_close_matches(variable.upper(), known, n=1)
            meant = f"; did you mean {near[0]}?" if near else f"; allowed: {', '.join(sorted(known))}"
            problems.append(f"{variable}: no such setting{meant}")
    if problems:
        raise InvalidSettings(problems)


def _read(profile: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(profile.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSettings([f"profile {profile}: {error.strerror or error}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings([f"profile {profile}: not TOML: {error}"]) from None


def _problems(error: ValidationError, origins: Mapping[str, str]) -> list[str]:
    problems = []
    for item in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"])
        # What pydantic puts before the text of our own validators.
        rule = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            allowed = f"; allowed: {', '.join(sorted(Settings.model_fields))}"
            problems.append(f"{where}: no such setting{allowed}{meant(where, Settings.model_fields)}")
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
            problems.append(f"{where}={item['input']!r}: {rule}")
        variable = variable_of(where.partition(".")[0])
        if where and variable in os.environ:
            problems[-1] += f"; said by {variable}"
    return problems


def _sources(rule: str, origins: Mapping[str, str]) -> str:
    """Where each setting that a rule names has its value from."""
    names = dict.fromkeys(re.findall(r"(\w+)(?:\[[^]]*\])?=", rule))
    return ", ".join(f"{name} from {_source(name, origins)}" for name in names)


def _source(name: str, origins: Mapping[str, str]) -> str:
    variable = variable_of(name)
    return variable if variable in os.environ else origins.get(name, "the default")
