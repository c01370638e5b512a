"""Answers of a real Ollama that holds no model, and where ours differ on purpose."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

DIFFERENCES_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "compatibility.md"

FRAMING = ("connection", "content-length", "date", "transfer-encoding")
"""Headers that say how an answer is carried, and when it was given."""

_REQUEST_ID = re.compile(r"req_[0-9a-f]{24}")
_ROW = re.compile(r"^\| `(\w+)`", re.MULTILINE)


@dataclass(frozen=True)
class Answer:
    """What matters of an answer; of a request id only its form does."""

    status: int
    headers: dict[str, list[str]]
    body: str


@dataclass(frozen=True)
class Entry:
    name: str
    method: str
    path: str
    answer: Answer
    request: bytes = b""
    request_headers: dict[str, str] = field(default_factory=dict)


def make_answer(status: int, headers: list[tuple[str, str]], body: str) -> Answer:
    """Return an answer in comparable form."""
    told: dict[str, list[str]] = {}
    for name, value in headers:
        if name.lower() not in FRAMING:
            told.setdefault(name.lower(), []).append(value)
    return Answer(status, told, _REQUEST_ID.sub("req_", body))


def read_entries() -> list[Entry]:
    """Return all recorded entries, in the order they were recorded: some build on those before."""
    recorded = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
    return [
        Entry(
            name=entry["name"],
            method=entry["method"],
            path=entry["path"],
            answer=make_answer(entry["status"], entry["headers"], entry["body"]),
            request=entry.get("request", "").encode(),
            request_headers=entry.get("request_headers", {}),
        )
        for entry in recorded["entries"]
    ]


def read_differences() -> set[str]:
    """Return the names of the entries that the documentation tells to differ."""
    return set(_ROW.findall(DIFFERENCES_PAGE.read_text(encoding="utf-8")))
