"""A node that goes on sending, and completes nothing: a blank every second, a line without an end."""

import asyncio

from sollol.upstream import failures

LEAST_BYTES_PER_S = 1024


class Drip:
    """How long it has been that what comes from a node completes nothing.

    Each byte starts the wait for the next one anew, so without this a node could hold a caller for as
    long as it likes.

    Args:
        authority: the node's host and port.
        limit_s: seconds until it is given up.
    """

    __slots__ = ("_authority", "_limit_s", "_since")

    def __init__(self, authority: str, limit_s: float) -> None:
        self._authority = authority
        self._limit_s = limit_s
        self._since = 0.0

    def completed(self) -> None:
        """Take note that something is complete."""
        self._since = 0.0

    def came(self, whole_bytes: int = 0) -> None:
        """Take note of a piece that completes nothing.

        Args:
            whole_bytes: how much has come of what is to be complete; every KiB is worth a second.

        Raises:
            UpstreamTimeout: it has taken too long.
        """
        now = asyncio.get_running_loop().time()
        if not self._since:
            self._since = now
        limit_s = self._limit_s + whole_bytes / LEAST_BYTES_PER_S
        if now - self._since > limit_s:
            raise failures.dripping(self._authority, limit_s)
