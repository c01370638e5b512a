"""The models that run over workers, as a person reads them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sollol.cli.output import bytes_text, print_table, printable, time_text
from sollol.cli.shard_text import rounded

_MODEL_COLUMNS = ("MODEL", "STATE", "REQUESTS", "CONTEXT", "LOADED IN", "EXPECTED", "UNTIL")
_HELD_COLUMNS = ("WORKER", "MODEL", "LAYERS", "WEIGHTS", "CONTEXT", "PLANNED", "OF")


def print_running(answer: Mapping[str, Any]) -> None:
    """Print what ``/sollol/v1/shards`` answers."""
    shards = answer["shards"]
    if not answer["enabled"]:
        print("The gateway has no workers: list them in its settings as sharding.workers.")
    elif not shards:
        print("No model runs over workers. One is loaded when it is first asked for.")
    else:
        now = datetime.now(UTC)
        print_table(_MODEL_COLUMNS, [_model_row(shard, now) for shard in shards])
    rows = [_held_row(shard, share) for shard in shards for share in shard["workers"]]
    if rows:
        print()
        print_table(_HELD_COLUMNS, rows)
    for shard in shards:
        if shard["error"]:
            print(printable(f"{shard['model']}: {shard['error']}"))


def _model_row(shard: Mapping[str, Any], now: datetime) -> list[str]:
    expected_s = shard["expected_tokens_per_s"]
    return [
        shard["model"],
        _state_text(shard),
        str(shard["requests"]),
        str(shard["context_length"] or ""),
        "" if shard["load_s"] is None else f"{shard['load_s']:.1f} s",
        "" if expected_s is None else f"~{rounded(expected_s)} tokens/s",
        _until_text(shard, now),
    ]


def _until_text(shard: Mapping[str, Any], now: datetime) -> str:
    if shard["state"] == "leaving":
        return "its requests end"
    return time_text(shard["expires_at"], now) if shard["expires_at"] else ""


def _state_text(shard: Mapping[str, Any]) -> str:
    if shard["state"] == "loading":
        eta_s = shard["eta_s"]
        left = "" if eta_s is None else f", ~{rounded(eta_s)} s left"
        return f"loading {shard['progress']:.0%}{left}"
    if shard["state"] != "failed":
        return str(shard["state"])
    wait_s = shard["retry_after_s"]
    return "failed, " + ("tried when asked for" if wait_s is None else f"again in {wait_s:.0f} s")


def _held_row(shard: Mapping[str, Any], share: Mapping[str, Any]) -> list[str]:
    first, count = share["first_layer"], share["layers"]
    layers = f"{first}-{first + count - 1}" if count > 0 else ""
    sizes = (share["weight_bytes"], share["cache_bytes"])
    return [
        share["address"],
        shard["model"],
        ", ".join(part for part in (layers, "output" * share["has_output"]) if part),
        *("" if size is None else bytes_text(size) for size in sizes),
        bytes_text(share["planned_bytes"]),
        bytes_text(share["memory_bytes"]),
    ]
