"""Requests on ``/api`` besides inference as they came in, and what became of them."""

from collections.abc import Callable

import msgspec

from sollol.api.request import Headers
from sollol.gateway.outcome import Outcome
from sollol.types import Dialect
from sollol.wire.bodies import ollama_error_record


class OllamaArrival(msgspec.Struct, kw_only=True):
    """What requests on ``/api`` besides inference have in common."""

    shown_id: str
    arrived_at: float
    outcome: Outcome = msgspec.field(default_factory=Outcome)

    @property
    def dialect(self) -> Dialect:
        """The caller's."""
        return Dialect.OLLAMA

    @property
    def error_record(self) -> Callable[[str], bytes]:
        """Writes the end of a stream that failed after it began."""
        return ollama_error_record

    def told_refused(self) -> Headers:
        """Return the headers that a refusal has besides."""
        return []
