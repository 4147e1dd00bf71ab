"""``docs/telemetry.md`` lists the contract, whole and as it is."""

from pathlib import Path

from orchestrator.telemetry import events

PAGE = Path(__file__).parents[3] / "docs" / "telemetry.md"


def row(event: events.EventName) -> str:
    cells = (f"`{event}`", event.meaning, " ".join(event.measurements), " ".join(event.metadata))
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def test_the_page_has_a_row_for_each_event_and_no_other() -> None:
    shown = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    expected = [row(event) for event in events.contract()]
    assert shown == expected, "the table should read:\n" + "\n".join(expected)
