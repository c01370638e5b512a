"""When a failed attempt may be made again on another node, and whose fault it was. Pure."""

import errno

from sollol.errors import (
    ConnectFailed,
    MissingOnNode,
    ProtocolViolation,
    SollolError,
    UpstreamCut,
    UpstreamTimeout,
)

OUR_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL})


def is_ours(error: ConnectFailed) -> bool:
    """Whether the connection failed for want of something on this side: no fault of the node."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in OUR_LIMITS


def is_fault_of_node(error: SollolError) -> bool:
    """Whether a failed attempt counts against the node that it was made on."""
    if isinstance(error, ConnectFailed):
        return not is_ours(error)
    return isinstance(error, ProtocolViolation | UpstreamCut | UpstreamTimeout)


def can_retry(error: SollolError, *, is_committed: bool, attempts: int, max_attempts: int) -> bool:
    """Whether to try another node after ``error``.

    Args:
        is_committed: the first byte of the answer went to the client.
        attempts: attempts made, counting the one that failed.
        max_attempts: attempts a request may make in all.

    A node that could not be reached has seen nothing of the request. One that closed the
    connection without an answer may have worked on it, but inference has no effects to repeat.
    One that lacks the model or the route costs no attempt.
    """
    if is_committed:
        return False
    if isinstance(error, MissingOnNode):
        return True
    if attempts >= max_attempts:
        return False
    return isinstance(error, ConnectFailed | UpstreamCut)
