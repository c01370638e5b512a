"""The models whose files are on this machine, in the stores of its Ollama."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from sollol.errors import InvalidRequest, ModelNotFound, SollolError
from sollol.gateway.shard_rules import naming
from sollol.settings import ShardingSettings
from sollol.sharding.gguf import read_header
from sollol.sharding.models import LocalModel, local_model
from sollol.sharding.ollama_store import (
    StoredModel,
    default_stores,
    find_model,
    is_current,
    list_models,
)
from sollol.sharding.shown import listed, shown
from sollol.sharding.support import check_runs
from sollol.types import Model
from sollol.wire.names import is_valid_name, model_key, shown_key

log = structlog.get_logger()

ANSWER_S = 0.2
"""How long a request waits for the store to say whether a model has changed."""
LOOK_S = 15.0
"""Seconds between two looks at what there is; a model that is asked for is looked for at once."""


class Shelf:
    """What the stores hold; ``models`` by key, as it was when last looked."""

    def __init__(self, settings: ShardingSettings) -> None:
        self._stores = default_stores(sys.platform, Path.home(), settings.store)
        self.models: Mapping[str, Model] = {}
        self._is_to_look = asyncio.Event()
        self._looks: dict[StoredModel, asyncio.Future[bool]] = {}

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        if not any(map(os.path.isdir, self._stores)):
            log.warning("no_store", looked_in=[str(path) for path in self._stores])
        while True:
            self._is_to_look.clear()
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._is_to_look.wait()

    async def look(self) -> None:
        """Take note of all models that there are."""
        self.models = await asyncio.to_thread(_all_models, self._stores)

    def look_soon(self) -> None:
        """Take note of all models once more: some have changed."""
        self._is_to_look.set()

    async def is_current(self, stored: StoredModel) -> bool:
        """Whether a model has the same files still; True while the store does not answer.

        A file system that hangs holds one thread for each model, however many ask.
        """
        look = self._looks.get(stored)
        if look is None:
            loop = asyncio.get_running_loop()
            look = self._looks[stored] = loop.run_in_executor(None, is_current, stored)
            look.add_done_callback(lambda _: self._looks.pop(stored))
        done, _ = await asyncio.wait((look,), timeout=ANSWER_S)
        return look.result() if done else True

    async def find(self, key: str) -> StoredModel | None:
        """Return a model by its key; None if there is none.

        Raises:
            ModelBroken: its manifest or a blob is missing or damaged.
        """
        if not is_valid_name(key):  # a digest names a model too, but clients know it by its name
            return None
        try:
            return await asyncio.to_thread(find_model, shown_key(key), self._stores)
        except (InvalidRequest, ModelNotFound):
            return None

    async def read(self, key: str) -> LocalModel:
        """Return a model with its facts.

        Raises:
            ModelNotFound: it is not there any more.
            ModelBroken: a file is missing, damaged or incomplete.
            UnsupportedByEngine: llama.cpp cannot run it, or it cannot be split.
        """
        return await asyncio.to_thread(_read, key, self._stores)

    async def show(self, stored: StoredModel) -> dict[str, Any]:
        """Return what ``/api/show`` tells of a model.

        Raises:
            ModelBroken: its GGUF file cannot be read.
            UnsupportedByEngine: it has none.
        """
        try:
            return await asyncio.to_thread(_shown, stored)
        except SollolError as error:
            raise naming(stored.name, error) from None


def _read(key: str, stores: Sequence[Path]) -> LocalModel:
    return local_model(find_model(shown_key(key), stores))


def _shown(stored: StoredModel) -> dict[str, Any]:
    headers = [read_header(path) for path in stored.parts]
    if not headers:
        check_runs(headers, stored.kinds)
    licenses = [path.read_text(errors="replace") for path in stored.licenses]
    return shown(stored, headers, licenses, _modified_at(stored.manifest or stored.parts[0]))


def _all_models(stores: Sequence[Path]) -> dict[str, Model]:
    found: dict[str, Model] = {}
    for stored in list_models(stores):
        if stored.manifest is None or model_key(stored.name) in found:
            continue
        with suppress(OSError):  # it was deleted just now
            model = _listed(stored, stored.manifest)
            found[model.key] = model
    return found


def _listed(stored: StoredModel, manifest: Path) -> Model:
    files = (*stored.parts, *stored.projectors, *stored.adapters)
    size_bytes = sum(path.stat().st_size for path in files)
    return listed(stored, size_bytes, _modified_at(manifest))


def _modified_at(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
