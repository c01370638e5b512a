"""When a failed attempt may be made again on another node. Pure."""

from sollol.errors import ConnectFailed, MissingOnNode, SollolError, UpstreamCut


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
