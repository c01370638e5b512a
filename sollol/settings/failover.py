"""Settings of what happens when a node fails."""

from typing import Literal

from pydantic import Field

from sollol.settings.values import Count, Group, Seconds


class FailoverSettings(Group):
    """What is tried again, and when a node that answers probes gets no requests all the same."""

    mid_stream: Literal["error", "continue"] = "error"
    """How a stream ends whose node fails in the middle: in an `error` record, or another node with the
    same model goes on with the answer: `continue`. A request can say so in `X-Sollol-On-Cut`."""
    hedge: bool = False
    """Whether a short request for embeddings is sent to a second node when the first is late: slower than 95 %
    of the model's latest ones. For at most 2 % of them, and only to a free node that has the model in memory."""
    eject_after: Count = 3
    """Failed requests in a row that eject a node, or a model on it."""
    eject_s: Seconds = 5.0
    """Seconds of the first ejection; each further one in a row lasts twice as long."""
    max_eject_s: Seconds = 120.0
    """Seconds of an ejection at most."""
    retry_share: float = Field(0.2, ge=0, le=1)
    """Part of the tokens of all requests in flight and of the last 10 s that retries may take."""
    retry_reserve: int = Field(10, ge=0)
    """Retries in 10 s that need no such part."""
