"""What nodes answer the gateway's own requests with, as JSON."""

import json
from typing import Any

MAX_ITEMS = 10_000
"""Most models of a node; each costs time in the event loop, with every probe that finds news."""


def json_object(path: str, body: bytes) -> dict[str, Any]:
    """Return the body of an answer to ``path``.

    Raises:
        ValueError: it is no JSON object.
    """
    value = json.loads(body)
    if isinstance(value, dict):
        return value
    raise ValueError(f"{path} answered with something that is no JSON object")


def objects(listing: object, name: str) -> list[dict[str, Any]]:
    """Return the items of a list that are objects in which ``name`` is a text that is not empty.

    Raises:
        ValueError: there are more than ``MAX_ITEMS``.
    """
    items = listing if isinstance(listing, list) else []
    if len(items) > MAX_ITEMS:
        raise ValueError(f"it lists {len(items)} models; more than {MAX_ITEMS} are not looked at")
    return [
        item
        for item in items
        if isinstance(item, dict) and isinstance(item.get(name), str) and _is_shown(item[name])
    ]


def _is_shown(name: str) -> bool:
    """Whether a name can be written: half a surrogate pair would break every list it is in."""
    return name.isprintable() and bool(name)
