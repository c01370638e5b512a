"""A request as the journal keeps it: what was decided and predicted, and what came of it."""

from typing import NamedTuple

import msgspec

from sollol.gateway.outcome import Outcome
from sollol.types import Ask

WAITING = "waiting"
RUNNING = "running"
OK = "ok"


class Entry(msgspec.Struct, eq=False, gc=False, array_like=True):
    """One request; ``outcome`` goes on changing until ``duration_s`` is known."""

    number: int
    """Counts requests in the order they came."""
    id: str
    """Unique."""
    shown_id: str
    """The caller's own id, or the unique one."""
    arrived_at: float
    """Seconds since 1970."""
    path: str
    task: str
    model: str
    """As the caller wrote it."""
    model_key: str
    priority: int
    caller: str
    ask: Ask
    outcome: Outcome
    duration_s: float | None = None
    """From arrival to the end; None before that."""

    def outcome_name(self, *, is_waiting: bool) -> str:
        """Return ``ok`` or the code of an error, or before the end ``waiting`` or ``running``."""
        if self.duration_s is None:
            return WAITING if is_waiting else RUNNING
        return self.outcome.error or OK


Kept = bytes | Entry
"""An entry that has ended, packed; as it is where a number or a text in it cannot be."""

pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(Entry).decode


class Wanted(NamedTuple):
    """Which entries are wanted; an empty text stands for all."""

    model: str = ""
    """Canonical, as ``wire.names.model_key`` returns it."""
    node: str = ""
    """One of the nodes that were tried."""
    outcome: str = ""
    caller: str = ""

    def has(self, entry: Entry, *, is_waiting: bool) -> bool:
        """Whether an entry is one of these."""
        return (
            self.model in ("", entry.model_key)
            and self.caller in ("", entry.caller)
            and self.outcome in ("", entry.outcome_name(is_waiting=is_waiting))
            and (
                not self.node
                or any(t.grant.lease.node_id == self.node for t in entry.outcome.tries)
            )
        )
