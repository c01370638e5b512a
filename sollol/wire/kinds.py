"""The request bodies we read: one :class:`BodyKind` for each inference route and ``/api/show``.

Source: Ollama, api/types.go and openai/openai.go, the structs of the same names.
"""

from dataclasses import dataclass, field

from sollol.types import Dialect, Task
from sollol.wire import gotypes as go


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

    go_type: str = field(init=False)
    """The Go struct with its package, for error texts."""
    empty_message: str = field(init=False)
    """The error text for a request without a body."""

    def __post_init__(self) -> None:
        is_ollama = self.dialect == Dialect.OLLAMA
        package = "api" if is_ollama else "openai"
        object.__setattr__(self, "go_type", f"{package}.{self.struct_name}")
        object.__setattr__(self, "empty_message", "missing request body" if is_ollama else "EOF")


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
    )
}
"""Every body we read, by the path of its route."""
