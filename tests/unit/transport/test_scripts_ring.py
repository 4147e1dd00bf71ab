"""Each script that puts a message into a mailbox wakes a reader of one whose agent limits what runs at a time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[3] / "orchestrator"

_ADDS: Final = re.compile(r"redis\.p?call\('XADD', ([^,]+(?: \.\. [^,]+)*),|'XADD', (?=')")

_NO_LIMIT: Final = "only where needs_admission() has found no limit"
_NO_MAILBOX: Final = "what nobody claims from"

#: What is added to without ringing, by file: the stream, as the script names it, and why.
SILENT: Final = {
    "transport/redis/lua/includes/publish_messages.lua": {"stream": _NO_LIMIT},
    "transport/redis/lua/commands/ask.lua": {"stream": _NO_LIMIT},
    "transport/redis/lua/commands/ask_many.lua": {"stream": _NO_LIMIT},
    "transport/redis/lua/includes/enter_lanes.lua": {"lanes.stream": _NO_MAILBOX},
    "transport/redis/lua/includes/deferred.lua": {"deferred_stream(root": _NO_MAILBOX},
    "coordination/lua/commands/announce_terms.lua": {"lanes.stream": _NO_MAILBOX},
}

#: Streams that are no mailbox's: logs, inboxes, the doorbells themselves.
OTHERS: Final = {
    "transport/redis/lua/includes/doorbell.lua": {"bell"},
    "transport/redis/lua/includes/mailbox_entry.lua": {"bell"},
    "transport/redis/lua/includes/run_recalls.lua": {"bell"},
    "transport/redis/lua/commands/release_mailbox.lua": {"bell"},
    "transport/redis/lua/includes/wake_readers.lua": {"root .. 'q:bell:' .. queue"},
    "transport/redis/lua/includes/ask_ends.lua": {"ask.inbox"},
    "transport/redis/lua/includes/endings.lua": {"endings"},
    "transport/redis/lua/includes/dead_letters.lua": {"root .. 'dead-letters'", "of_kind"},
    "transport/redis/lua/includes/schedule_changes.lua": {""},
    "transport/redis/lua/commands/fence.lua": {"deaths"},
    "transport/redis/lua/commands/complete_death.lua": {"deaths"},
    "transport/redis/lua/commands/disprove_death.lua": {"deaths"},
    "coordination/lua/includes/named_leases.lua": {"work.terms"},
}


def added_to() -> dict[str, list[tuple[str, bool]]]:
    """By file, the streams that it adds to, each with whether the next lines ring its mailbox' doorbell."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for path in sorted(PACKAGE.rglob("*.lua")):
        lines = path.read_text().splitlines()
        for at, line in enumerate(lines):
            for match in _ADDS.finditer(line) if not line.lstrip().startswith("--") else ():
                stream = match[1] or ""
                rings = any(f"ring_doorbell({stream})" in one for one in lines[at : at + 25])
                found.setdefault(str(path.relative_to(PACKAGE)), []).append((stream, rings))
    return found


def test_whatever_adds_to_a_mailbox_rings() -> None:
    """Regression: steps of workflows, replies, compensations, … could wait for 200 ms in such a mailbox."""
    found = added_to()
    missing = {
        (file, stream)
        for file, added in found.items()
        for stream, rings in added
        if not rings and stream not in OTHERS.get(file, ()) and stream not in SILENT.get(file, {})
    }
    assert not missing, "use put() of mailbox_entry.lua, or call ring_doorbell() of doorbell.lua"


def test_nothing_is_excepted_that_is_not_there() -> None:
    there = {(file, stream) for file, added in added_to().items() for stream, _ in added}
    excepted = {(file, stream) for names in (SILENT, OTHERS) for file, streams in names.items() for stream in streams}
    assert excepted <= there
