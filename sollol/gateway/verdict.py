"""One answer out of those of several nodes. Pure."""

from collections.abc import Sequence
from http import HTTPStatus

import msgspec

from sollol.errors import FleetFailed, SollolError
from sollol.wire.progress import failure_text


class NodeAnswer(msgspec.Struct, frozen=True):
    """What a node answered, or the error that came of asking it."""

    node: str
    status: int = 0
    content_type: bytes = b""
    body: bytes = b""
    error: SollolError | None = None

    @property
    def is_ok(self) -> bool:
        """Whether the node did what was asked; a redirection comes of a proxy that did nothing."""
        return self.error is None and 200 <= self.status < 300

    @property
    def is_not_found(self) -> bool:
        """Whether the node lacks what was named; one without the route says so as plain text."""
        is_json = self.content_type.startswith(b"application/json")
        return self.error is None and self.status == HTTPStatus.NOT_FOUND and is_json

    @property
    def text(self) -> str:
        """What the node says is wrong."""
        return str(self.error) if self.error is not None else error_text(self.status, self.body)


class _ErrorBody(msgspec.Struct):
    error: str


def error_text(status: int, body: bytes) -> str:
    """Return the message in a node's error answer."""
    try:
        return msgspec.json.decode(body, type=_ErrorBody).error
    except ValueError:
        return body.decode("utf-8", "replace").strip()[:200] or f"answered with status {status}"


def unanimous(answers: Sequence[NodeAnswer]) -> NodeAnswer | None:
    """Return the refusal that all nodes gave alike, or raise the failure of the only one.

    Raises:
        SollolError: only one node was asked, and it failed.
    """
    if len(answers) == 1 and answers[0].error is not None:
        raise answers[0].error
    said = {(a.status, a.body) for a in answers if a.error is None and not a.is_ok}
    is_alike = len(said) == 1 and all(a.error is None and not a.is_ok for a in answers)
    return answers[0] if is_alike else None


def combine(answers: Sequence[NodeAnswer]) -> NodeAnswer:
    """Return what the client is told.

    1. All nodes refused alike: that, as it came.
    2. At least one did it and the others did not have what was named: success.

    Raises:
        SollolError: only one node was asked, and it failed.
        FleetFailed: everything else, with what each node did.
    """
    refusal = unanimous(answers)
    if refusal is not None:
        return refusal
    done = [answer for answer in answers if answer.is_ok]
    if done and all(answer.is_ok or answer.is_not_found for answer in answers):
        return done[0]
    errors = {answer.node: answer.text for answer in answers if not answer.is_ok}
    raise FleetFailed(failure_text(errors, [answer.node for answer in done]))
