"""Control requests to nodes that answer with JSON."""

from typing import Any

import httpx

MAX_ITEMS = 10_000
"""Most models of a node; each costs time in the event loop, with every probe that finds news."""


async def get_object(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """Return the JSON object at ``url``.

    Raises:
        httpx.HTTPError: no answer, or an error status.
        ValueError: the answer is no JSON object.
    """
    response = await client.get(url)
    response.raise_for_status()
    return json_object(response)


def json_object(response: httpx.Response) -> dict[str, Any]:
    """Return an answer's body.

    Raises:
        ValueError: it is no JSON object.
    """
    body = response.json()
    if isinstance(body, dict):
        return body
    raise ValueError(f"{response.url.path} answered with something that is no JSON object")


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
