"""The models on a simulated node's disk."""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property

from sollol.bench.sim.bodies import ApiError
from sollol.bench.sim.config import SimConfig, SimModel, guess_model
from sollol.bench.sim.names import full_name, short_name


@dataclass(frozen=True)
class StoredModel:
    """A model on disk under one of its names."""

    model: SimModel
    modified_at: datetime

    @cached_property
    def name(self) -> str:
        """The name as inventories show it."""
        return short_name(full_name(self.model.name) or self.model.name)


class ModelStore:
    """The models on a node's disk, found by name in any case and with or without defaults.

    ``generation`` grows with every change.
    """

    def __init__(self, config: SimConfig) -> None:
        self._stored: dict[str, StoredModel] = {}
        self._registry = config.registry
        self.generation = 0
        for place, model in enumerate(config.models):
            modified_at = config.installed_at - timedelta(minutes=place)
            self._stored[_key(model.name)] = StoredModel(model, modified_at)

    def newest_first(self) -> list[StoredModel]:
        """Return all models, the last changed first."""
        return sorted(self._stored.values(), key=lambda stored: stored.modified_at, reverse=True)

    def find(self, name: str) -> StoredModel | None:
        """Return the model of that name."""
        return self._stored.get(_key(name))

    def find_remote(self, name: str) -> SimModel | None:
        """Return the model that a pull of this name brings."""
        if self._registry is None:
            return guess_model(name)
        known = {_key(model.name): model for model in self._registry}
        return known.get(_key(name))

    def add(self, model: SimModel, name: str) -> None:
        """Store a model under a name."""
        renamed = replace(model, name=name)
        self.generation += 1
        self._stored[_key(name)] = StoredModel(renamed, datetime.now(UTC))

    def remove(self, name: str) -> None:
        """Forget a name; nothing happens if it is unknown."""
        self.generation += 1
        with suppress(KeyError):
            del self._stored[_key(name)]


def _key(name: str) -> str:
    return (full_name(name) or name).lower()


def find_model(models: ModelStore, name: str, missing: str = "model '{}' not found") -> StoredModel:
    """Return the model a request names.

    Raises:
        ApiError: the name is not valid (400), means a cloud model (403), or is unknown (404).
    """
    bare = name.removesuffix(":local")
    if bare.endswith((":cloud", "-cloud")):
        if bare != name:
            raise ApiError(400, f'use either :local or :cloud, not both: "{name}"')
        reason = "ollama cloud is disabled: remote model is unavailable"
        raise ApiError(403, reason, is_gin=True, is_plain=True)
    if bare and full_name(bare) is None:
        raise ApiError(400, "invalid model name")
    stored = models.find(bare) if bare else None
    if stored is None:
        raise ApiError(404, missing.format(name))
    return stored


def require(model: SimModel, name: str, capability: str, verb: str) -> None:
    """Refuse a model that cannot do what is asked.

    Raises:
        ApiError: it lacks the capability (400).
    """
    if capability not in model.capabilities:
        raise ApiError(400, f'"{name}" does not support {verb}')
