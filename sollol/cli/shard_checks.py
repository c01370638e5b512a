"""The checks of ``sollol doctor`` on models over several machines: the store, and the workers."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sollol.cli.checks import Check
from sollol.cli.errors import CommandError
from sollol.cli.gateway import url_of
from sollol.cli.shard_workers import held_models, seen_workers, told_workers
from sollol.settings import LOCAL_WORKER, Settings
from sollol.sharding.ollama_store import MANIFESTS, default_stores

_NO_ANSWER = "Start it there with sollol worker, or check its address and the firewall between."
_NO_STORE = "Set sharding.store or OLLAMA_MODELS, or pull a model with the Ollama of this machine."


def check_sharding(settings: Settings) -> list[Check]:
    """Check the store and every worker; nothing where the settings have no worker."""
    sharding = settings.sharding
    if not sharding.workers and sharding.local_worker_gb is None:
        return []
    store = check_store(default_stores(sys.platform, Path.home(), sharding.store))
    at = url_of(settings.server)
    try:
        workers = told_workers(seen_workers(sharding), lambda: held_models(at))
    except CommandError as error:
        return [store, Check("fail", "workers", "\n".join(error.lines))]
    return [store, *map(check_worker, workers)]


def check_store(stores: Sequence[Path]) -> Check:
    """Check that Ollama keeps models in one of these directories, from which they are loaded."""
    found = [str(store) for store in stores if (store / MANIFESTS).is_dir()]
    if found:
        return Check("ok", "model store", ", ".join(found))
    places = ", ".join(map(str, stores))
    return Check("warn", "model store", f"no models of an Ollama in {places}", _NO_STORE)


def check_worker(told: Mapping[str, Any]) -> Check:
    """Return what is to be said of a worker, as ``told_workers`` tells of it."""
    subject = f"worker {told['address']}"
    if told["address"] == LOCAL_WORKER:
        return Check("ok", subject, "the gateway runs it itself")
    if told["model"]:
        return Check("ok", subject, f"holds a part of {told['model']}")
    if told["error"]:
        advice = "" if told["version"] else _NO_ANSWER
        return Check("warn", subject, told["error"], advice)
    return Check("ok", subject, f"RPC protocol {told['version']}")
