"""Objects of which there is one for each thing that is held, in the process of its owner."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex


class NotCopied:
    """Neither copied nor pickled: a copy would be released in place of the original, or be taken for another hold."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse: :mod:`copy` and :mod:`pickle` call this, and :mod:`multiprocessing` with a process' arguments.

        Raises:
            TypeError: always, and it says what can be sent instead.
        """
        raise TypeError(
            f"{self!r} cannot be copied or pickled: it is held by the session or attempt that acquired it, in this "
            f"process; allowed: to send its name and number (the fence of a lease), and to acquire another one there"
        )
