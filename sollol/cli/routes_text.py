"""The reference page of all routes, made from the OpenAPI document."""

from collections.abc import Iterator, Mapping
from typing import Any

from sollol.api.app import App
from sollol.gateway.gateway import Gateway
from sollol.settings import Settings

_HEAD = """\
# Routes

Every route, as `GET /openapi.json` describes them; `/docs` shows the same in a browser. What they do and
how they differ from an Ollama's is in [API](api.md). Fields that are not listed go through to the node.
"""
_TAGS = {
    "ollama": "Ollama's, answered by a node",
    "openai": "OpenAI's, answered by a node",
    "anthropic": "Anthropic's, answered by a node",
    "models": "Changing models on nodes",
    "account": "About an account at ollama.com",
    "inventory": "What the nodes have, answered by the gateway",
    "nodes": "The nodes",
    "shards": "Models over several machines",
    "decisions": "Decisions, the queue and estimates",
    "gateway": "The gateway itself",
}


def routes_page() -> str:
    """Return the page: a table for each kind of route."""
    described = App(Gateway(Settings())).description()
    schemas = described["components"]["schemas"]
    parts = [_HEAD]
    for tag, title in _TAGS.items():
        rows = [
            f"| `{method.upper()} {path}` | {operation['summary']} | {', '.join(_takes(operation, schemas))} |"
            for path, methods in sorted(described["paths"].items())
            for method, operation in methods.items()
            if operation["tags"] == [tag]
        ]
        parts.append(f"## {title}\n\n| Route | What it does | It takes |\n| --- | --- | --- |")
        parts[-1] += "\n" + "\n".join(rows) + "\n"
    return "\n".join(parts)


def _takes(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parameters and the fields of the body."""
    for parameter in operation.get("parameters", ()):
        where = {"header": "header ", "query": "query "}.get(parameter["in"], "")
        yield f"{where}`{parameter['name']}`"
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        named = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
        properties = named.get("properties", {})
        yield from (f"`{name}`" for name in properties if not name.startswith("_"))
