"""Model names as Ollama reads them: ``[host/][namespace/]model[:tag]``, in any case.

The gateway has its own reading of names; this one is separate, so that a mistake there is not
repeated by the node it is tested against.
"""

import re
from functools import lru_cache

_HOST = "registry.ollama.ai"
_NAMESPACE = "library"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_DEFAULTS = f"{_HOST}/{_NAMESPACE}/"


@lru_cache(maxsize=1024)
def full_name(name: str) -> str | None:
    """Return the name with every default filled in, or ``None`` if it is not a valid name."""
    *path, last = name.split("/")
    model, _, tag = last.partition(":")
    if len(path) > 2 or last.endswith(":"):
        return None
    host = path[0] if len(path) == 2 else _HOST
    namespace = path[-1] if path else _NAMESPACE
    parts = (host.replace(":", ""), namespace, model, tag or "latest")
    if not all(_PART.fullmatch(part) for part in parts):
        return None
    return f"{host}/{namespace}/{model}:{tag or 'latest'}"


def short_name(full: str) -> str:
    """Return a full name without the default host and namespace, as inventories show it."""
    if full.lower().startswith(_DEFAULTS):
        return full[len(_DEFAULTS) :]
    return full.removeprefix(f"{_HOST}/")
