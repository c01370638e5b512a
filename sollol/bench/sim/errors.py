"""Error bodies in the form of the API that a path belongs to."""

import secrets
from typing import Any

from sollol.bench.sim.records import go_json

_OPENAI_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def is_translated(path: str) -> bool:
    """Say whether the answers of a path are put into another API's form than Ollama's own."""
    return path.startswith("/v1/") and path != "/v1/systemone"


def error_body(path: str, status: int, message: str) -> bytes:
    """Return an error in the form of a path's API, without a newline."""
    if not is_translated(path):
        return go_json({"error": message})
    if path == "/v1/messages":
        return go_json(_anthropic(status, message))
    kind = _OPENAI_TYPES.get(status, "api_error")
    return go_json({"error": {"message": message, "type": kind, "param": None, "code": None}})


def _anthropic(status: int, message: str) -> dict[str, Any]:
    kind = _ANTHROPIC_TYPES.get(status, "api_error")
    request_id = f"req_{secrets.token_hex(12)}"
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
