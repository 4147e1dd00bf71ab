"""Former names of settings and options, for the errors and warnings that name the present one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Former name -> present name.
FORMER_NAMES: Final[Mapping[str, str]] = {
    "alone_run_s": "isolation_run_s",
    "alone_wait_s": "isolation_wait_s",
    "at_death": "on_death",
    "bury_expired": "dead_letter_expired",
    "letters_every_s": "dead_letter_maintenance_interval_s",
    "letters_first_retry_s": "dead_letter_first_replay_s",
    "letters_keep_s": "dead_letter_ttl_s",
    "letters_most": "dead_letter_max_count",
    "letters_retries": "dead_letter_auto_replays",
    "suspect_s": "heartbeat_timeout_s",
    "sweep_every_s": "sweep_interval_s",
}
