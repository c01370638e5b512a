"""The workers as they answer, and what of it a person and other programs are told."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sollol.cli.errors import CommandError
from sollol.cli.gateway import Gateway
from sollol.cli.output import bytes_text, print_table, printable
from sollol.llamacpp.binaries import LlamaCppUnavailable, find_binaries
from sollol.settings import LOCAL_WORKER, ShardingSettings
from sollol.sharding.fleet import Seen, survey
from sollol.sharding.links import MeasuredLink
from sollol.sharding.rpc import Probe

_COLUMNS = ("WORKER", "STATE", "VERSION", "ROUND TRIP", "LINK", "HAS", "MAY TAKE")


def seen_workers(settings: ShardingSettings) -> Sequence[Seen]:
    """Return what the workers answer; they are compared with the llama.cpp here, if there is one.

    The gateway's own worker runs as long as that does, so it is taken as the settings say.

    Raises:
        CommandError: the settings name one that is not there.
    """
    try:
        binaries = find_binaries(settings.binary)
    except LlamaCppUnavailable as error:
        if settings.binary is not None:
            raise CommandError(f"sharding.binary: {error}", exit_code=2) from None
        binaries = None
    seen = asyncio.run(survey(settings.workers, binaries))
    own = settings.local_worker
    return seen if own is None else (*seen, Seen(own, Probe(own.address), MeasuredLink()))


def held_models(url: str) -> dict[str, str]:
    """Return of which model of the gateway each worker holds a part; nothing where none answers."""
    try:
        answer = Gateway(url).get("/sollol/v1/shards")
    except CommandError:
        return {}
    return {
        one["address"]: shard["model"] for shard in answer["shards"] for one in shard["workers"]
    }


def print_workers(workers: Iterable[Mapping[str, Any]]) -> None:
    """Print what each worker answered, beside the memory that the settings give it."""
    told = list(workers)
    rows = [
        (
            one["address"],
            one["state"],
            one["version"],
            _or_empty(one["round_trip_s"], "{:.2g} ms", 1000),
            _or_empty(one["bytes_per_s"], "{:.2g} Gbit/s", 8e-9),
            ", ".join(bytes_text(device["total_bytes"]) for device in one["devices"]),
            bytes_text(one["declared_bytes"]),
        )
        for one in told
    ]
    print_table(_COLUMNS, rows)
    remarks = [(one["address"], remark) for one in told if (remark := _remark(one))]
    print("\n" * bool(remarks), end="")
    for address, remark in remarks:
        print(printable(remark if address in remark else f"{address}: {remark}"))


def told_workers(
    seen: Iterable[Seen], held: Callable[[], Mapping[str, str]]
) -> list[dict[str, Any]]:
    """Return what each worker answered, for other programs; what was not measured is None.

    ``state`` is ``answers``, ``busy`` (it holds a part of ``model``), ``no answer``, ``unusable`` (it
    answered, and cannot be used) or ``gateway's`` (the gateway runs it itself).

    Args:
        held: tells which model each worker holds; asked only if one does not answer.
    """
    workers = list(seen)
    models = held() if any(one.probe.error for one in workers) else {}
    return [_worker_dict(one, models.get(one.worker.address, "")) for one in workers]


def _worker_dict(one: Seen, model: str) -> dict[str, Any]:
    is_busy = bool(one.probe.error and not one.probe.version and model)
    return {
        "address": one.probe.address,
        "state": "busy" if is_busy else _state(one),
        "model": model if is_busy else "",
        "error": one.probe.error,
        "version": ".".join(map(str, one.probe.version)),
        "round_trip_s": one.link.round_trip_s,
        "bytes_per_s": one.link.bytes_per_s,
        "devices": [asdict(device) for device in one.probe.devices],
        "declared_bytes": one.worker.memory_bytes,
    }


def _state(one: Seen) -> str:
    if one.worker.address == LOCAL_WORKER:
        return "gateway's"
    if not one.probe.error:
        return "answers"
    return "unusable" if one.probe.version else "no answer"


def _remark(told: Mapping[str, Any]) -> str:
    if told["address"] == LOCAL_WORKER:
        return "the gateway runs it on this machine as long as it runs (sharding.local_worker_gb)"
    if told["model"]:
        return f"it holds a part of {told['model']}, and answers nobody else meanwhile"
    return str(told["error"])


def _or_empty(number: float | None, form: str, factor: float) -> str:
    return "" if number is None else form.format(number * factor)
