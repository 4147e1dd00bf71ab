"""A command whose output goes to a full disk."""

import subprocess
import sys
from pathlib import Path

PRINTS = """
import click
from orchestrator.cli.reported_errors import reported

click.command()(reported(lambda: [click.echo("x" * 100_000) for _ in range(3)]))()
"""


def test_an_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", PRINTS], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, "Error: the output could not be written: No space left on device\n")


WRITES = """
import click
from pathlib import Path
from orchestrator.cli.output.private_files import open_private
from orchestrator.cli.reported_errors import reported

def export():
    with open_private(Path("/dev/full")) as out:
        out.write("x" * 100_000)

click.command()(reported(export))()
"""


def test_an_export_that_cannot_be_written_names_its_file() -> None:
    ended = subprocess.run([sys.executable, "-c", WRITES], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (1, "Error: /dev/full: No space left on device\n")
