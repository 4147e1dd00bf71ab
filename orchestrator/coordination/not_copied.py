"""An object that stands for what its owner holds, in one process."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex


class NotCopied:
    """Neither copied nor pickled: a copy would be released in place of the original, or be taken for another hold."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """What :mod:`copy` and :mod:`pickle` call, and :mod:`multiprocessing` with a process' arguments.

        Raises:
            TypeError: always, and it says what can be sent instead.
        """
        raise TypeError(
            f"{self!r} cannot be copied or pickled: it is held by the session or attempt that acquired it, in this "
            f"process; allowed: to send its name and number (the fence of a lease), and to acquire another one there"
        )
