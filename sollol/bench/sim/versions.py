"""Which routes an Ollama of a certain version has; those that every version has are not listed.

Source: the routes of Ollama's releases, read from their source.
"""

Version = tuple[int, ...]

_ROUTES: dict[str, tuple[Version, Version | None]] = {
    "/v1/models": ((0, 2, 0), None),
    "/v1/models/:model": ((0, 2, 0), None),
    "/v1/completions": ((0, 2, 0), None),
    "/api/embed": ((0, 2, 6), None),
    "/v1/embeddings": ((0, 2, 6), None),
    "/api/me": ((0, 12, 0), None),
    "/api/user/keys/:encodedKey": ((0, 12, 0), None),
    "/api/signout": ((0, 12, 1), None),
    "/v1/responses": ((0, 13, 3), None),
    "/v1/messages": ((0, 14, 0), None),
    "/v1/images/generations": ((0, 14, 3), (0, 32, 5)),
    "/v1/images/edits": ((0, 15, 0), (0, 32, 5)),
    "/api/status": ((0, 16, 2), None),
    "/api/experimental/web_search": ((0, 18, 0), None),
    "/api/experimental/web_fetch": ((0, 18, 0), None),
    "/v1/audio/transcriptions": ((0, 20, 0), None),
    "/api/experimental/model-recommendations": ((0, 22, 1), None),
    "/v1/systemone": ((0, 35, 0), None),
}
"""The first and the last version that has a route; no last one if it is there to stay."""


def has_route(version: str, route: str) -> bool:
    """Say whether a version has a route; a build from source, 0.0.0, has what is there to stay."""
    first, last = _ROUTES.get(route, ((), None))
    numbers = tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdigit())
    if not any(numbers):
        return last is None
    return first <= numbers and (last is None or numbers <= last)
