"""Values that several packages share. All are immutable: their owners hand out new ones.

Those made for every request are msgspec structs, which cost a twentieth of a frozen dataclass.
Owners: ``nodes/registry.py`` makes every :class:`NodeView`, ``scheduling/scheduler.py`` every
:class:`Lease`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

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
    EJECTED = "ejected"
    """Requests failed there, whatever probes say: it gets none for a while."""
    HALF_OPEN = "half_open"
    """That while is over: it gets one request at a time, until one begins to be answered."""
    DRAINING = "draining"
    """Finishes what it has and gets nothing new."""


class Source(StrEnum):
    """How the gateway came to know a node."""

    SETTINGS = "settings"
    API = "api"
    EMBEDDED = "embedded"
    SHARD = "shard"
    """A model over several machines, which the gateway started."""
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

    @property
    def cpu_share(self) -> float:
        """The share of it that is not on an accelerator; 0 where nothing is said of that."""
        if not self.size_bytes:
            return 0.0
        return max(0.0, 1.0 - self.vram_bytes / self.size_bytes)


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """What a model of Ollama says for requests that do not say it themselves.

    ``system`` is a system prompt, ``examples`` are messages of text that come before those of a
    conversation, each with ``role`` and ``content``, and ``options`` are as those of ``/api/chat``.
    """

    system: str = ""
    examples: tuple[Mapping[str, str], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


NO_DEFAULTS = ModelDefaults()


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
    memory_bytes: int | None = None
    """What its models may take of its memory together, if the settings say so."""
    weight: float = 1.0
    """Its share of the requests under the policy ``weighted``."""
    outvoted: frozenset[str] = frozenset()
    """Keys of models that it gets no requests for: healthy nodes have the chosen digest of them."""
    limited: Mapping[str, NodeState] = field(default_factory=dict)
    """Runners (:meth:`runner`) that are ``EJECTED`` or ``HALF_OPEN`` there, while the node is not."""
    defaults: ModelDefaults = NO_DEFAULTS
    """What the gateway says for its model, as the node's engine does not know it."""

    @property
    def is_open(self) -> bool:
        """Whether it gets requests: all it has slots for, or one at a time."""
        return self.state in (NodeState.HEALTHY, NodeState.HALF_OPEN)

    def runner(self, model_key: str) -> str:
        """Return what names the process that runs a model: names with one digest share it."""
        return self.models[model_key].digest or model_key


class Ask(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a body asks of a model, as far as it decides how long that takes and where it can run.

    Made by ``wire/ask.py`` from the endpoint and the body, never from the words of the prompt.
    """

    task: Task = Task.OTHER
    prompt_bytes: int = 0
    """UTF-8 bytes of all text of the prompt: messages, system, tools, inputs to embed."""
    images: int = 0
    inputs: int = 1
    """Texts to embed; 1 for all other tasks."""
    max_output_tokens: int | None = None
    """The caller's own limit (``num_predict``, ``max_tokens``), if it set a positive one."""
    options: tuple[tuple[str, int | float | bool], ...] = ()
    """Runner options that the body sets (``num_ctx``, ``num_gpu``, ...), by name: another value than
    the loaded runner's means a reload."""
    needs: frozenset[str] = frozenset()
    """Capabilities as Ollama names them: ``vision``, ``tools``, ``thinking``, ``embedding``."""
    is_structured: bool = False
    """The answer must follow a schema or be JSON."""
    conversation: int = 0
    """Equal for requests that go on with one conversation (a hash); 0 for none."""

    @property
    def num_ctx(self) -> int | None:
        """Tokens of context that the body wants, if it says so."""
        return next((int(value) for name, value in self.options if name == "num_ctx"), None)


NOTHING_KNOWN = Ask()


LOWEST_PRIORITY, HIGHEST_PRIORITY = 1, 10


class Comer(NamedTuple):
    """What is known of a request before its body is: who sends it and how urgent its headers say it is."""

    caller: str
    priority: int


class RouteRequest(msgspec.Struct, frozen=True, gc=False):
    """What a scheduling decision needs to know of a request; times are of the monotonic clock.

    ``excluded`` holds ids of nodes that may not have it. ``avoided`` are those that already failed it,
    and may have it again while there is no other.
    """

    id: str
    model: str
    arrived_at: float
    expires_at: float
    """Queued for longer than this, the request is given up with a queue time-out."""
    excluded: frozenset[str] = frozenset()
    takes_slot: bool = True
    """False for what a node answers at once, however busy: facts of a model, its unloading."""
    priority: int = 5
    """1 to 10; larger is more urgent."""
    caller: str = ""
    """Who asks: callers of equal priority share the nodes fairly."""
    ask: Ask = NOTHING_KNOWN
    avoided: frozenset[str] = frozenset()


class Measured(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is known of an answer once it has ended. None where nobody said.

    ``load_s`` to ``output_s`` are what the node reports (``wire/measured.py``); ``first_byte_s``
    and ``total_s`` are of the gateway's own clock, from the sending of the request.
    """

    load_s: float | None = None
    prompt_tokens: int | None = None
    """All of the prompt, what the node had cached included."""
    cached_tokens: int | None = None
    prompt_s: float | None = None
    """Evaluating what of the prompt was not cached."""
    output_tokens: int | None = None
    output_s: float | None = None
    node_total_s: float | None = None
    first_byte_s: float | None = None
    total_s: float | None = None
    pieces: int = 0
    """Pieces that a stream came in: about its tokens, where the node does not count them."""


class Lease(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The hold on one slot of a runner of a node; given back once with ``Scheduler.release``.

    ``runner`` is :meth:`NodeView.runner`, or empty for a request that takes no slot.
    """

    id: int
    request_id: str
    node_id: str
    runner: str
    queue_wait_s: float
    predicted_s: float = 0.0
    """Seconds from the grant to the end of the answer, as predicted at the grant."""
    loads: bool = False
    """The node must load the model for it first, as far as is known."""
    options: tuple[tuple[str, int | float | bool], ...] | None = None
    """Runner options to be sent in place of those of the body, so that the node need not load the
    model anew; None: as they came."""
    first_byte_s: float = 0.0
    """Seconds from the grant to the first token with nothing of the prompt cached, as predicted; 0 where
    that would rest on no measurement of the model there."""
    token_s: float = 0.0
    """Seconds for each token of the answer, as predicted."""
    is_trial: bool = False
    """Whether the runner does its work is to be seen by how this request begins to be answered."""
