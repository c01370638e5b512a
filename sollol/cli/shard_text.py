"""A shard plan as a person reads it, and as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sollol.cli.output import bytes_text, print_table, printable, time_text
from sollol.sharding.alternatives import Alternative
from sollol.sharding.memory import DeviceMemory
from sollol.sharding.plan import Plan, Share
from sollol.sharding.prediction import Expectation
from sollol.sharding.rpc import Probe

_WORKER_COLUMNS = ("WORKER", "STATE", "VERSION", "ROUND TRIP", "HAS", "MAY TAKE")
_MODEL_COLUMNS = ("MODEL", "STATE", "REQUESTS", "CONTEXT", "LOADED IN", "EXPECTED", "UNTIL")
_HELD_COLUMNS = ("WORKER", "MODEL", "LAYERS", "WEIGHTS", "CONTEXT", "PLANNED", "OF")
_COLUMNS = ("WORKER", "LAYERS", "WEIGHTS", "CONTEXT", "COMPUTE", "NEEDS", "OF")


def print_plan(
    name: str, plan: Plan, others: Sequence[Alternative], remarks: Iterable[str]
) -> None:
    """Print a plan as a table, with what to expect and what else could be done."""
    facts, options = plan.facts, plan.options
    print(
        f"{name}: {facts.architecture}, {facts.layer_count} layers and the output, "
        f"{bytes_text(facts.file_bytes)}; {options.slots} x {options.context_length} tokens of "
        f"context as {options.key_type}"
    )
    print()
    print_table(_COLUMNS, [_row(plan, share) for share in plan.shares])
    print()
    host = plan.coordinator
    print(
        f"coordinator  {host.name}: {bytes_text(plan.coordinator_bytes)} "
        f"of {bytes_text(host.memory_bytes)}"
    )
    print(f"expect       {expectation_text(plan)}")
    print(f"llama-server --n-gpu-layers {plan.gpu_layers} --tensor-split {plan.tensor_split}")
    for line in (*ways_out(others), *remarks):
        print(line)


def ways_out(others: Iterable[Alternative]) -> list[str]:
    """Return a line for each alternative."""
    return [f"Or with {other.what}: {expectation_text(other.plan)}." for other in others]


def expectation_text(plan: Plan) -> str:
    """Return what to expect in one line: ``2 workers, ~9 tokens/s, ~70 s to load``."""
    told = plan.expectation
    count = len(plan.shares)
    workers = f"{count} worker{'' if count == 1 else 's'}" if count else "no worker"
    cached = f" (~{_rounded(told.cached_load_s)} s once workers cache it)" if count else ""
    return (
        f"{workers}, ~{_rounded(told.tokens_per_s)} tokens/s, "
        f"~{_rounded(told.load_s)} s to load{cached}"
    )


def as_dict(
    name: str, plan: Plan, others: Sequence[Alternative], remarks: Iterable[str]
) -> dict[str, Any]:
    """Return a plan for other programs; sizes are bytes, times seconds."""
    facts, options = plan.facts, plan.options
    return {
        "model": name,
        "architecture": facts.architecture,
        "layers": facts.layer_count,
        "file_bytes": facts.file_bytes,
        "context_length": options.context_length,
        "slots": options.slots,
        "cache_type": options.key_type,
        "coordinator": {"name": plan.coordinator.name, "needs_bytes": plan.coordinator_bytes},
        "shares": [_share(plan, share) for share in plan.shares],
        "tensor_split": plan.tensor_split,
        "gpu_layers": plan.gpu_layers,
        "expect": _expected(plan.expectation),
        "alternatives": [
            {
                "what": other.what,
                "workers": [share.worker.name for share in other.plan.shares],
                "expect": _expected(other.plan.expectation),
            }
            for other in others
        ],
        "notes": list(remarks),
    }


def print_workers(results: Iterable[Probe], declared: Iterable[int]) -> None:
    """Print what each worker answered, beside the memory that the settings give it."""
    rows = [
        (
            result.address,
            result.error or "answers",
            ".".join(map(str, result.version)),
            f"{result.round_trip_s * 1000:.2g} ms" if result.version else "",
            ", ".join(bytes_text(device.total_bytes) for device in result.devices),
            bytes_text(memory_bytes),
        )
        for result, memory_bytes in zip(results, declared, strict=True)
    ]
    print_table(_WORKER_COLUMNS, rows)


def worker_dict(result: Probe, declared_bytes: int) -> dict[str, Any]:
    """Return what a worker answered, for other programs."""
    return {
        "address": result.address,
        "error": result.error,
        "version": ".".join(map(str, result.version)),
        "round_trip_s": result.round_trip_s,
        "devices": [asdict(device) for device in result.devices],
        "declared_bytes": declared_bytes,
    }


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
        "" if expected_s is None else f"~{_rounded(expected_s)} tokens/s",
        time_text(shard["expires_at"], now) if shard["expires_at"] else "",
    ]


def _state_text(shard: Mapping[str, Any]) -> str:
    if shard["state"] == "loading":
        eta_s = shard["eta_s"]
        left = "" if eta_s is None else f", ~{_rounded(eta_s)} s left"
        return f"loading {shard['progress']:.0%}{left}"
    wait_s = shard["retry_after_s"]
    return str(shard["state"]) + ("" if wait_s is None else f", again in {wait_s:.0f} s")


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


def _row(plan: Plan, share: Share) -> list[str]:
    needs = share.memory
    sizes = (
        needs.weight_bytes,
        needs.cache_bytes + needs.state_bytes,
        needs.compute_bytes,
        needs.total_bytes,
        share.worker.memory_bytes,
    )
    return [share.worker.name, _layers(plan, share), *map(bytes_text, sizes)]


def _layers(plan: Plan, share: Share) -> str:
    last = min(share.end, plan.facts.layer_count) - 1
    layers = f"{share.first}-{last}" if share.first <= last else ""
    has_output = share.end > plan.facts.layer_count
    return ", ".join(part for part in (layers, "output" * has_output) if part)


def _share(plan: Plan, share: Share) -> dict[str, Any]:
    needs: DeviceMemory = share.memory
    return {
        "worker": share.worker.name,
        "first_layer": share.first,
        "layers": min(share.end, plan.facts.layer_count) - share.first,
        "has_output": share.end > plan.facts.layer_count,
        "weight_bytes": needs.weight_bytes,
        "cache_bytes": needs.cache_bytes,
        "state_bytes": needs.state_bytes,
        "compute_bytes": needs.compute_bytes,
        "needs_bytes": needs.total_bytes,
        "memory_bytes": share.worker.memory_bytes,
    }


def _expected(told: Expectation) -> dict[str, float]:
    return {
        "tokens_per_s": round(told.tokens_per_s, 2),
        "load_s": round(told.load_s, 1),
        "cached_load_s": round(told.cached_load_s, 1),
    }


def _rounded(number: float) -> str:
    return f"{number:.2g}" if number < 100 else f"{number:.0f}"
