"""Scripts in processes of their own, whose start is not in the time that a test waits for what they do."""

from __future__ import annotations

import subprocess
import sys

#: A script has this line where what it loads is loaded.
LOADED = 'print("loaded", flush=True)'


def started_script(source: str) -> subprocess.Popen[str]:
    """A process that runs the source, once it has come to :data:`LOADED`.

    A machine that is busy with other tests may take longer to load the library than anything that a test waits for.
    """
    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise AssertionError(f"the script ended before it was loaded, with {process.wait()}:\n{source}")
    return process
