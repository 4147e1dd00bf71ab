"""Look at processes that the tests started."""

import psutil


def is_gone(pid: int) -> bool:
    """Whether the process has ended; one that only its parent has yet to notice counts as ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
