"""A request in Ollama's dialect as the gateway reads, checks and translates it."""

import json
from typing import Any

from sollol.types import NO_DEFAULTS, ModelDefaults
from sollol.wire.checks import check_fields
from sollol.wire.kinds import BODY_KINDS
from sollol.wire.ollama import SYSTEM_CLOCK, Clock
from sollol.wire.peek import peek
from sollol.wire.translate_request import Translated, translate


def translated(
    path: str,
    fields: dict[str, Any],
    *,
    model: str = "m",
    upstream_model: str = "up",
    defaults: ModelDefaults = NO_DEFAULTS,
    clock: Clock = SYSTEM_CLOCK,
) -> Translated:
    """Return what a llama-server is sent for the body ``{"model": model, **fields}``."""
    kind = BODY_KINDS[path]
    seen = peek(kind, json.dumps({"model": model} | fields).encode())
    check_fields(kind, seen)
    return translate(kind, seen, upstream_model, defaults=defaults, clock=clock)
