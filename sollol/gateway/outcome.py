"""What became of a request, attempt by attempt.

Not beside what fills it in, as mypyc would not keep the types it is read with: docs/decisions/0008.
"""

import msgspec

from sollol.scheduling.decision import Grant
from sollol.types import Measured


class Attempt(msgspec.Struct, gc=False, array_like=True):
    """A call on one node. ``measured`` is there once its answer has ended; ``error`` is a code.

    ``continues``: it goes on with what the attempts before it had told the client.
    ``is_crash``: the request may have broken the node.
    """

    grant: Grant
    measured: Measured | None = None
    error: str = ""
    continues: bool = False
    is_crash: bool = False


class Continuation(msgspec.Struct, gc=False, array_like=True):
    """What became of a stream that broke off and was to be gone on with.

    ``outcome`` is ``continued``, ``failed`` (it broke off again), ``refused`` (it could not be done) or
    ``cancelled``; ``reason`` is why. ``tokens`` are those that the client had before; None where they
    were not counted.
    """

    outcome: str
    reason: str = ""
    tokens: int | None = None


class Outcome(msgspec.Struct, gc=False, array_like=True):
    """What happened to a call so far; filled in on the way, read by log, metrics and journal.

    ``status`` is what the client was told, 0 before that. ``queue_wait_s`` adds up the waits for
    slots and is None while there was none. ``first_byte_s`` counts from the arrival. ``sent_at`` is
    when the last attempt was sent, of the gateway's clock. ``error`` is a code of ``errors.py``. ``model`` is the model that was
    asked last where it is another than the caller named, and ``stripped`` are the runner options
    that were replaced for the last attempt.
    """

    node_id: str = ""
    status: int = 0
    tries: list[Attempt] = msgspec.field(default_factory=list)
    queue_wait_s: float | None = None
    first_byte_s: float | None = None
    sent_at: float = 0.0
    error: str = ""
    error_text: str = ""
    model: str = ""
    stripped: tuple[str, ...] = ()
    continuation: Continuation | None = None
