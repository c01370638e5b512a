"""The latest requests: what was decided for each, what was predicted, and what came of it.

On the way of a request one struct is made here, which holds on to what exists anyway. Once it has
ended it is packed into a few hundred bytes: thousands of requests as objects do not fit into the
processor's cache, and every request would take its memory from where it has gone cold. Whoever asks
pays for the reading. What is kept is bounded: ``length`` requests that have ended, each with at most
``MAX_TRIES`` attempts of ``MAX_OPTIONS`` options, and no text of its caller longer than ``MAX_TEXT``:
about 1 kB, and 8 kB where many nodes were tried. Of prompts and answers nothing is kept.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count

from sollol.gateway.call import Call
from sollol.gateway.entries import Entry, Kept, Wanted, pack, unpack
from sollol.gateway.outcome import Outcome

MAX_TEXT = 300
"""Characters kept of a path, a model's name or an error: a caller may have written them."""

MAX_TRIES = 8
"""Attempts kept, the latest ones: those on nodes that lack the model are not counted as such."""


class Journal:
    """Sole owner of the entries: those of requests under way, and the latest that have ended.

    Args:
        length: how many of those that ended are kept.
        wall: returns the seconds since 1970.
    """

    def __init__(self, length: int, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._numbers = count(1)
        self._open: dict[str, Entry] = {}
        self._ended: deque[tuple[int, Kept]] = deque(maxlen=length)
        """Each with its number."""

    def open(self, call: Call, shown_id: str, outcome: Outcome) -> Entry:
        """Begin the entry of a request that is about to be forwarded."""
        entry = Entry(
            next(self._numbers),
            call.id,
            shown_id,
            self._wall(),
            call.kind.path[:MAX_TEXT],
            call.kind.task,
            call.model[:MAX_TEXT],
            call.model_key[:MAX_TEXT],
            call.priority,
            call.caller,
            call.ask,
            outcome,
        )
        self._open[call.id] = entry
        return entry

    def close(self, entry: Entry, duration_s: float) -> None:
        """End an entry; its outcome changes no more."""
        del self._open[entry.id]
        entry.duration_s = duration_s
        outcome = entry.outcome
        if outcome.error_text:
            outcome.error_text = outcome.error_text[:MAX_TEXT]
        if len(outcome.tries) > MAX_TRIES:
            del outcome.tries[:-MAX_TRIES]
        self._ended.append((entry.number, packed(entry)))

    def shown_id(self, request_id: str) -> str:
        """Return the id that the caller of a request under way knows; the same one if there is none."""
        entry = self._open.get(request_id)
        return request_id if entry is None else entry.shown_id

    def find(self, any_id: str) -> list[Entry]:
        """Return the entries with an id, theirs or the caller's; the newest first."""
        entries = self._newest_first(any_id)
        return [entry for entry in entries if any_id in (entry.shown_id, entry.id)]

    def select(
        self, wanted: Wanted, waiting: Callable[[str], bool], before: int
    ) -> Iterator[Entry]:
        """Yield the entries that are wanted, the newest first; for a reader that does not wait.

        Args:
            waiting: tells whether a request waits for a slot, by its unique id.
            before: only those with a smaller number; 0 for all.
        """
        for entry in self._newest_first(max(wanted.model, wanted.node, wanted.caller, key=len)):
            is_in = not before or entry.number < before
            if is_in and wanted.has(entry, is_waiting=waiting(entry.id)):
                yield entry

    def _newest_first(self, text: str) -> Iterator[Entry]:
        """Yield the entries with a text in them, and maybe some others."""
        sought = text.encode(errors="surrogatepass")
        entries: list[tuple[int, Kept]] = [(entry.number, entry) for entry in self._open.values()]
        entries += self._ended
        entries.sort(key=lambda numbered: -numbered[0])
        return (unpacked(kept) for _, kept in entries if isinstance(kept, Entry) or sought in kept)


def prediction(entry: Entry) -> tuple[float, float] | None:
    """Return the seconds from the grant to the end as predicted, and as they were; None if unknown."""
    tries = entry.outcome.tries
    if not tries:
        return None
    measured, grant = tries[-1].measured, tries[-1].grant
    if grant.decision is None or measured is None:
        return None
    total_s = measured.total_s
    return (grant.lease.predicted_s, total_s) if total_s else None


def packed(entry: Entry) -> Kept:
    """Return an entry that has ended as it is kept."""
    try:
        return pack(entry)
    except (OverflowError, UnicodeEncodeError):  # callers and nodes can write both
        return entry


def unpacked(kept: Kept) -> Entry:
    """Return an entry that was kept."""
    return kept if isinstance(kept, Entry) else unpack(kept)
