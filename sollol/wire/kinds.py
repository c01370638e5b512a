"""The request bodies we read: one :class:`BodyKind` for each inference route and ``/api/show``.

Source: Ollama, api/types.go and openai/openai.go, the structs of the same names.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from sollol.types import Dialect, Task
from sollol.wire import bodies, gotypes as go

Version = tuple[int, ...]

_ERROR_RECORDS: dict[str, Callable[[str], bytes]] = {
    Dialect.OLLAMA: bodies.ollama_error_record,
    Dialect.OPENAI: bodies.openai_error_event,
    Dialect.ANTHROPIC: bodies.anthropic_error_event,
    "/v1/responses": bodies.responses_error_event,
}
"""By path or else by dialect."""

_PACKAGES = {Dialect.OLLAMA: "api", Dialect.OPENAI: "openai", Dialect.ANTHROPIC: "anthropic"}


@dataclass(frozen=True, slots=True, eq=False)
class BodyKind:
    """What the body of a route is decoded into, and what of it matters for routing."""

    path: str
    task: Task
    dialect: Dialect
    struct_name: str
    """The Go struct without its package, for error texts."""
    struct: go.Struct
    streams_by_default: bool = False
    content_field: str | None = None
    """The field that is empty when a request only loads the model; None when none does."""
    since: Version = ()
    """The first Ollama that has the route; empty for those that every Ollama in use has."""
    removed_in: Version = ()
    """The first Ollama that does not have it any more; empty when all do."""
    is_multipart: bool = False
    """The body is a form, and the model one of its fields."""

    go_type: str = field(init=False)
    """The Go struct with its package, for error texts."""
    empty_message: str = field(init=False)
    """The error text for a request without a body."""
    error_record: Callable[[str], bytes] = field(init=False)
    """Writes the end of a stream that failed after it began."""

    def __post_init__(self) -> None:
        is_ollama = self.dialect == Dialect.OLLAMA
        package = _PACKAGES[self.dialect]
        object.__setattr__(self, "go_type", f"{package}.{self.struct_name}")
        object.__setattr__(self, "empty_message", "missing request body" if is_ollama else "EOF")
        record = _ERROR_RECORDS.get(self.path) or _ERROR_RECORDS[self.dialect]
        object.__setattr__(self, "error_record", record)


CHAT = BodyKind(
    "/api/chat",
    Task.CHAT,
    Dialect.OLLAMA,
    "ChatRequest",
    {
        "model": go.STRING,
        "messages": go.MESSAGES,
        "stream": go.BOOL,
        "format": go.RAW,
        "keep_alive": go.KEEP_ALIVE,
        "tools": go.TOOLS,
        "options": go.MAP,
        "think": go.THINK,
        "truncate": go.BOOL,
        "shift": go.BOOL,
        "_debug_render_only": go.BOOL,
        "logprobs": go.BOOL,
        "top_logprobs": go.INT,
    },
    streams_by_default=True,
    content_field="messages",
)

GENERATE = BodyKind(
    "/api/generate",
    Task.GENERATE,
    Dialect.OLLAMA,
    "GenerateRequest",
    {
        "model": go.STRING,
        "prompt": go.STRING,
        "suffix": go.STRING,
        "system": go.STRING,
        "template": go.STRING,
        "context": go.INTS,
        "stream": go.BOOL,
        "raw": go.BOOL,
        "format": go.RAW,
        "keep_alive": go.KEEP_ALIVE,
        "images": go.IMAGES,
        "options": go.MAP,
        "think": go.THINK,
        "truncate": go.BOOL,
        "shift": go.BOOL,
        "_debug_render_only": go.BOOL,
        "logprobs": go.BOOL,
        "top_logprobs": go.INT,
    },
    streams_by_default=True,
    content_field="prompt",
)

EMBED = BodyKind(
    "/api/embed",
    Task.EMBED,
    Dialect.OLLAMA,
    "EmbedRequest",
    {
        "model": go.STRING,
        "input": go.ANY,
        "keep_alive": go.KEEP_ALIVE,
        "truncate": go.BOOL,
        "dimensions": go.INT,
        "options": go.MAP,
    },
    content_field="input",
)

EMBEDDINGS = BodyKind(
    "/api/embeddings",
    Task.EMBED,
    Dialect.OLLAMA,
    "EmbeddingRequest",
    {"model": go.STRING, "prompt": go.STRING, "keep_alive": go.KEEP_ALIVE, "options": go.MAP},
    content_field="prompt",
)

SHOW = BodyKind(
    "/api/show",
    Task.SHOW,
    Dialect.OLLAMA,
    "ShowRequest",
    {
        "model": go.STRING,
        "system": go.STRING,
        "template": go.STRING,
        "verbose": go.BOOL,
        "options": go.MAP,
        "name": go.STRING,
    },
)

V1_CHAT = BodyKind(
    "/v1/chat/completions",
    Task.CHAT,
    Dialect.OPENAI,
    "ChatCompletionRequest",
    {
        "model": go.STRING,
        "messages": go.V1_MESSAGES,
        "stream": go.BOOL,
        "stream_options": go.STREAM_OPTIONS,
        "max_tokens": go.INT,
        "seed": go.INT,
        "temperature": go.FLOAT64,
        "frequency_penalty": go.FLOAT64,
        "presence_penalty": go.FLOAT64,
        "top_p": go.FLOAT64,
        "response_format": go.RESPONSE_FORMAT,
        "tools": go.V1_TOOLS,
        "reasoning": go.REASONING,
        "reasoning_effort": go.STRING,
        "logprobs": go.BOOL,
        "top_logprobs": go.INT,
        "_debug_render_only": go.BOOL,
    },
)

V1_COMPLETIONS = BodyKind(
    "/v1/completions",
    Task.GENERATE,
    Dialect.OPENAI,
    "CompletionRequest",
    {
        "model": go.STRING,
        "prompt": go.STRING,
        "frequency_penalty": go.FLOAT32,
        "max_tokens": go.INT,
        "presence_penalty": go.FLOAT32,
        "seed": go.INT,
        "stream": go.BOOL,
        "stream_options": go.STREAM_OPTIONS,
        "temperature": go.FLOAT32,
        "top_p": go.FLOAT32,
        "suffix": go.STRING,
        "logprobs": go.INT,
        "_debug_render_only": go.BOOL,
    },
    content_field="prompt",
)

V1_EMBEDDINGS = BodyKind(
    "/v1/embeddings",
    Task.EMBED,
    Dialect.OPENAI,
    "EmbedRequest",
    {
        "input": go.ANY,
        "model": go.STRING,
        "dimensions": go.INT,
        "encoding_format": go.STRING,
    },
)

V1_RESPONSES = BodyKind(
    "/v1/responses",
    Task.CHAT,
    Dialect.OPENAI,
    "ResponsesRequest",
    {
        "model": go.STRING,
        "instructions": go.STRING,
        "max_output_tokens": go.INT,
        "stream": go.BOOL,
        "temperature": go.FLOAT64,
        "top_p": go.FLOAT64,
    },
    since=(0, 13, 3),
)

V1_ANTHROPIC_MESSAGES = BodyKind(
    "/v1/messages",
    Task.CHAT,
    Dialect.ANTHROPIC,
    "MessagesRequest",
    {
        "model": go.STRING,
        "max_tokens": go.INT,
        "messages": go.ANTHROPIC_MESSAGES,
        "stream": go.BOOL,
        "temperature": go.FLOAT64,
        "top_p": go.FLOAT64,
        "top_k": go.INT,
        "stop_sequences": go.STRINGS,
    },
    since=(0, 14, 0),
)

V1_TRANSCRIPTIONS = BodyKind(
    "/v1/audio/transcriptions",
    Task.TRANSCRIBE,
    Dialect.OPENAI,
    "TranscriptionRequest",
    {"model": go.STRING},
    since=(0, 20, 0),
    is_multipart=True,
)

V1_IMAGES = BodyKind(
    "/v1/images/generations",
    Task.IMAGE,
    Dialect.OPENAI,
    "ImageGenerationRequest",
    {"model": go.STRING},
    since=(0, 14, 3),
    removed_in=(0, 32, 6),
)

V1_IMAGE_EDITS = BodyKind(
    "/v1/images/edits",
    Task.IMAGE,
    Dialect.OPENAI,
    "ImageEditRequest",
    {"model": go.STRING},
    since=(0, 15, 0),
    removed_in=(0, 32, 6),
)

BODY_KINDS = {
    kind.path: kind
    for kind in (
        CHAT,
        GENERATE,
        EMBED,
        EMBEDDINGS,
        SHOW,
        V1_CHAT,
        V1_COMPLETIONS,
        V1_EMBEDDINGS,
        V1_RESPONSES,
        V1_ANTHROPIC_MESSAGES,
        V1_TRANSCRIPTIONS,
        V1_IMAGES,
        V1_IMAGE_EDITS,
    )
}
"""Every body we read, by the path of its route."""

OPTIONAL = (V1_IMAGES, V1_IMAGE_EDITS)
"""Routes that exist only where a node has them: without one they are unknown."""


UNCACHED_STREAMS = (V1_RESPONSES, V1_ANTHROPIC_MESSAGES)
"""Routes that say of a stream, also of one that is refused, that it is not to be cached."""


@lru_cache(maxsize=256)
def other_kind(path: str) -> BodyKind | None:
    """Return the kind of a route that we do not know; None where no node could have it.

    A later Ollama has routes that this one has not; with a model in the body they can be routed.
    """
    if path.startswith("/api/"):
        return BodyKind(path, Task.OTHER, Dialect.OLLAMA, "Request", {"model": go.STRING})
    if path.startswith("/v1/messages/"):
        return BodyKind(path, Task.OTHER, Dialect.ANTHROPIC, "Request", {"model": go.STRING})
    if path.startswith("/v1/"):
        return BodyKind(path, Task.OTHER, Dialect.OPENAI, "Request", {"model": go.STRING})
    return None
