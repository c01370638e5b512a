"""The routes about an account at ollama.com, of a node that has none and may not reach it.

``/api/status``, the web routes and the recommendations as recorded; the others are not in the
record and answer as API.md says of requests that ollama.com refuses.
"""

from sollol.bench.sim.bodies import ApiError, read_body
from sollol.bench.sim.call import Call
from sollol.bench.sim.records import go_json

_SIGN_IN = "https://ollama.com/connect?name=sim&key=c2lt"
_RECOMMENDED = (
    {
        "model": "kimi-k2.6:cloud",
        "description": "State-of-the-art coding, long-horizon execution, and multimodal agent swarm capability",
        "context_length": 262144,
        "max_output_tokens": 262144,
    },
    {
        "model": "glm-5.1:cloud",
        "description": "Reasoning and code generation",
        "context_length": 202752,
        "max_output_tokens": 131072,
    },
    {
        "model": "qwen3.5:cloud",
        "description": "Reasoning, coding, and agentic tool use with vision",
        "context_length": 262144,
        "max_output_tokens": 32768,
    },
    {
        "model": "minimax-m2.7:cloud",
        "description": "Fast, efficient coding and real-world productivity",
        "context_length": 204800,
        "max_output_tokens": 128000,
    },
    {
        "model": "gemma4",
        "description": "Reasoning and code generation locally",
        "vram_bytes": 12000000000,
    },
    {
        "model": "qwen3.5",
        "description": "Reasoning, coding, and visual understanding locally",
        "vram_bytes": 14000000000,
    },
)


def status(call: Call) -> None:
    """Serve ``/api/status``."""
    call.exchange.respond(200, go_json({"cloud": {"disabled": True, "source": "env"}}))


def recommendations(call: Call) -> None:
    """Serve ``/api/experimental/model-recommendations``."""
    call.exchange.respond(200, go_json({"recommendations": list(_RECOMMENDED)}))


def web_search(call: Call) -> None:
    """Serve ``/api/experimental/web_search``."""
    _refuse_web(call, "web search")


def web_fetch(call: Call) -> None:
    """Serve ``/api/experimental/web_fetch``."""
    _refuse_web(call, "web fetch")


def unauthorized(call: Call) -> None:
    """Serve ``/api/me``, ``/api/signout`` and ``/api/user/keys/:encodedKey``."""
    call.exchange.respond(401, go_json({"error": "unauthorized", "signin_url": _SIGN_IN}))


def _refuse_web(call: Call, what: str) -> None:
    read_body(call.body, "WebRequest")
    raise ApiError(403, f"ollama cloud is disabled: {what} is unavailable")
