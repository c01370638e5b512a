"""Values that several packages share. All are immutable: their owners hand out new ones.

Those made for every request are msgspec structs, which cost a twentieth of a frozen dataclass.
Owners: ``nodes/registry.py`` makes every :class:`NodeView`, ``scheduling/scheduler.py`` every
:class:`Lease`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec


class Engine(StrEnum):
    """The software of a node."""

    OLLAMA = "ollama"
    LLAMA_SERVER = "llama_server"
    OPENAI = "openai"
    """Any other server that speaks the OpenAI API (vLLM, LM Studio, ...)."""


class NodeState(StrEnum):
    """Whether a node may be given work."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    """Probes or connections fail, or no probe has succeeded yet."""
    DRAINING = "draining"
    """Finishes what it has and gets nothing new."""


class Source(StrEnum):
    """How the gateway came to know a node."""

    SETTINGS = "settings"
    API = "api"
    EMBEDDED = "embedded"
    LOCAL = "local"
    DNS = "dns"
    MDNS = "mdns"
    SCAN = "scan"

    @property
    def is_found(self) -> bool:
        """Whether discovery found it, and may let go of it again."""
        return self in (Source.LOCAL, Source.DNS, Source.MDNS, Source.SCAN)


class Task(StrEnum):
    """What a request asks a model to do."""

    CHAT = "chat"
    GENERATE = "generate"
    EMBED = "embed"
    SHOW = "show"
    """Model facts, read from any node that has the model."""
    TRANSCRIBE = "transcribe"
    IMAGE = "image"
    OTHER = "other"
    """A route that SOLLOL does not know; nodes may."""


class Dialect(StrEnum):
    """The API a caller speaks; it decides the shape of errors."""

    OLLAMA = "ollama"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
class Model:
    """A model that a node has on disk, as its inventory tells it.

    ``key`` is the canonical name (``wire.names.model_key``), ``name`` what the node calls it,
    ``entry`` its record in the form of ``/api/tags``, passed on in merged lists.
    """

    key: str
    name: str
    digest: str = ""
    size_bytes: int = 0
    modified_at: str = ""
    context_length: int | None = None
    capabilities: frozenset[str] = frozenset()
    entry: Mapping[str, Any] = field(default_factory=dict, compare=False)
    show: Mapping[str, Any] | None = field(default=None, compare=False)
    """The answer of ``/api/show``, for engines that do not have that route."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that is in a node's memory. ``vram_bytes < size_bytes`` means partly on the CPU."""

    key: str
    name: str
    digest: str = ""
    size_bytes: int = 0
    vram_bytes: int = 0
    context_length: int | None = None
    expires_at: str = ""
    entry: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class NodeView:
    """What is known of a node at one moment.

    ``slots`` is how many sequences the node runs at once for one model, whatever its names; ``models`` and
    ``resident`` map canonical names to what the node reports under them.
    """

    id: str
    url: str
    engine: Engine
    state: NodeState
    slots: int = 1
    version: str = ""
    models: Mapping[str, Model] = field(default_factory=dict)
    resident: Mapping[str, Resident] = field(default_factory=dict)
    last_error: str = ""
    """Why the node is unhealthy; empty when it is not."""
    outvoted: frozenset[str] = frozenset()
    """Keys of models that it gets no requests for: healthy nodes have the chosen digest of them."""

    def runner(self, model_key: str) -> str:
        """Return what names the process that runs a model: names with one digest share it."""
        return self.models[model_key].digest or model_key


class RouteRequest(msgspec.Struct, frozen=True):
    """What a scheduling decision needs to know of a request; times are of the monotonic clock.

    ``excluded`` holds ids of nodes that already failed this request.
    """

    id: str
    model: str
    arrived_at: float
    expires_at: float
    """Queued for longer than this, the request is given up with a queue time-out."""
    excluded: frozenset[str] = frozenset()
    takes_slot: bool = True
    """False for what a node answers at once, however busy: facts of a model, its unloading."""


class Lease(msgspec.Struct, frozen=True):
    """The hold on one slot of a runner of a node; given back once with ``Scheduler.release``.

    ``runner`` is :meth:`NodeView.runner`, or empty for a request that takes no slot.
    """

    id: int
    request_id: str
    node_id: str
    runner: str
    queue_wait_s: float
