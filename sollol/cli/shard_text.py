"""A shard plan as a person reads it, and as JSON."""

from collections.abc import Iterable, Sequence
from typing import Any

from sollol.cli.output import bytes_text, print_table
from sollol.sharding.alternatives import Alternative
from sollol.sharding.fleet import Seen
from sollol.sharding.memory import DeviceMemory
from sollol.sharding.plan import Plan, Share
from sollol.sharding.prediction import Expectation

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
    cached = f" (~{rounded(told.cached_load_s)} s once workers cache it)" if count else ""
    return (
        f"{workers}, ~{rounded(told.tokens_per_s)} tokens/s, "
        f"~{rounded(told.load_s)} s to load{cached}"
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


def link_text(one: Seen) -> str:
    """Return what is known of the link to a worker in one line, and where the numbers are from."""
    told = link_dict(one)
    numbers = (
        f"{told['round_trip_s'] * 1000:.2g} ms {told['round_trip_is']}",
        f"{told['bytes_per_s'] * 8e-9:.2g} Gbit/s {told['bytes_per_s_is']}",
    )
    why = f"; {one.probe.error}" if one.probe.error else ""
    return f"link to {told['worker']}: {', '.join(numbers)}{why}"


def link_dict(one: Seen) -> dict[str, Any]:
    """Return the link to a worker for other programs."""
    settings, link = one.worker, one.best_link
    return {
        "worker": settings.address,
        "round_trip_s": link.round_trip_s,
        "round_trip_is": _source(settings.round_trip_s, one.link.round_trip_s),
        "bytes_per_s": link.bytes_per_s,
        "bytes_per_s_is": _source(settings.gbit_per_s, one.link.bytes_per_s),
        "error": one.probe.error,
    }


def _source(declared: float | None, measured: float | None) -> str:
    if declared is not None:
        return "set"
    return "assumed" if measured is None else "measured"


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


def rounded(number: float) -> str:
    """Return a number with two digits, or without a fraction."""
    return f"{number:.2g}" if number < 100 else f"{number:.0f}"
