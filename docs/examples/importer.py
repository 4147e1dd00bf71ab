"""A leader-elected importer: of any number of these processes one imports, and the next goes on where it was killed.

Run it as often as you like: `python importer.py redis://localhost/0 imported.db *.csv`. What keeps each file whole, and
in the database once: a file and its name are written in one transaction, and a transaction of a leader that was paused
and followed by another is refused, because its fencing token is lower than one that the database has seen.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import sleep

from celery import Celery

from orchestrator import BrokerUnavailable, LeaseTaken, Orchestrator, OwnerGone

SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (file TEXT, row TEXT);
CREATE TABLE IF NOT EXISTS files (file TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS guard (id INTEGER PRIMARY KEY CHECK (id = 0), fence INTEGER);
INSERT OR IGNORE INTO guard VALUES (0, 0);
"""


class Superseded(Exception):
    """Another leader has written since."""


def imported(database: sqlite3.Connection) -> set[str]:
    """The files that are imported."""
    return {file for (file,) in database.execute("SELECT file FROM files")}


def store(database: sqlite3.Connection, file: str, rows: Sequence[str], fence: int) -> None:
    """Import a file in one transaction, unless a higher token was seen.

    Raises:
        Superseded: it was.
    """
    with database:
        guarded = database.execute("UPDATE guard SET fence = ? WHERE fence <= ?", (fence, fence))
        if guarded.rowcount == 0:
            raise Superseded(file)
        database.executemany("INSERT INTO rows VALUES (?, ?)", [(file, row) for row in rows])
        database.execute("INSERT INTO files VALUES (?)", (file,))


def lead(
    orchestrator: Orchestrator, database: sqlite3.Connection, files: Sequence[Path], seen: Callable[[str], None] = print
) -> bool:
    """Wait to lead, and import what is left; returns whether all is imported."""
    with orchestrator.monitors.session():
        try:
            led = orchestrator.election("importer").campaign(wait_s=5)
        except LeaseTaken:
            return False
        with led:
            for file in files:
                if file.name not in imported(database):
                    store(database, file.name, file.read_text().splitlines(), led.fence)
                    seen(file.name)
    return True


def main(url: str, database_file: str, *names: str) -> None:
    """Go on until all is imported."""
    orchestrator = Orchestrator(Celery("importer", broker=url))
    database = sqlite3.connect(database_file, timeout=30)
    database.executescript(SCHEMA)
    done = False
    while not done:
        try:
            done = lead(orchestrator, database, [Path(name) for name in names])
        except (Superseded, OwnerGone) as error:
            print(f"another one leads: {error}", file=sys.stderr)  # noqa: T201
        except BrokerUnavailable as error:
            print(f"tried again in a second: {error}", file=sys.stderr)  # noqa: T201
            sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
