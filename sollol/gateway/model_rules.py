"""What the settings say of models: which nodes may run them, and what their names stand for. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from sollol.nodes.catalog import Listing
from sollol.settings import ModelSettings, NodeSettings
from sollol.types import Model
from sollol.wire.names import display_name, model_key

Models = Mapping[str, ModelSettings]


class Meant(NamedTuple):
    """What a name of a model stands for: ``name`` is empty where it is that model itself.

    ``others`` are tried in their order when no node has it.
    """

    name: str
    others: tuple[str, ...]


_WILD = frozenset("*?[")


class ModelRules:
    """Answers from the settings in force; :meth:`use` gives it others.

    Args:
        models: by name, as they are written in the settings.
        settings_of: gives the settings of a node by its id; None of one that is not known.
    """

    def __init__(self, models: Models, settings_of: Callable[[str], NodeSettings | None]) -> None:
        self._settings_of = settings_of
        self.use(models)

    def use(self, models: Models) -> None:
        """Take over other rules for models."""
        by_key = {model_key(name): model for name, model in models.items()}
        self._pins = {key: model.pin for key, model in by_key.items() if model.pin}
        self._meant = {key: meant for key in by_key if any(meant := _meant(by_key, key))}
        self._aliases = {
            name: model_key(self._meant[model_key(name)].name)
            for name, model in models.items()
            if model.alias_of is not None
        }

    def is_allowed(self, node_id: str, key: str) -> bool:
        """Whether a node may be given requests for a model.

        1. A pinned model runs on the nodes it is pinned to only.
        2. Of a node's lists, that of denied models wins.
        """
        pins = self._pins.get(key)
        if pins is not None and node_id not in pins:
            return False
        node = self._settings_of(node_id)
        if node is None:
            return True
        if node.deny_models and is_listed(key, node.deny_models):
            return False
        return not node.allow_models or is_listed(key, node.allow_models)

    def pinned_to(self, key: str) -> tuple[str, ...]:
        """Return the ids of the nodes that a model is pinned to; nothing when it is not."""
        return self._pins.get(key, ())

    def resolve(self, key: str) -> Meant | None:
        """Return what a name stands for; None where there are no rules for it."""
        return self._meant.get(key)

    def installed(self, listings: Iterable[Listing]) -> list[Model]:
        """Return the models to list: those that some node may run, each alias behind its target.

        A name that is an alias stands for its target, also where a node has a model of that name.
        """
        aliases: dict[str, list[str]] = {}
        for name, target in self._aliases.items():
            aliases.setdefault(target, []).append(name)
        hidden = {model_key(name) for name in self._aliases}
        found = []
        for model, nodes in listings:
            if not any(self.is_allowed(view.id, model.key) for view in nodes):
                continue
            found += [] if model.key in hidden else [model]
            found += [_called(model, name) for name in aliases.get(model.key, ())]
        return found


@lru_cache(maxsize=65_536)
def is_listed(key: str, patterns: Sequence[str]) -> bool:
    """Whether a model is among those that names and shell-style patterns stand for.

    A name is compared as Ollama compares names; a pattern with the shortest name of the model, in
    lower case and with its tag: ``qwen3:*``, ``*:70b``, ``hf.co/*``.
    """
    shown = display_name(key).lower()
    return any(
        fnmatchcase(shown, pattern.lower())
        if _WILD.intersection(pattern)
        else model_key(pattern) == key
        for pattern in patterns
    )


def _meant(by_key: Models, key: str) -> Meant:
    name, fallbacks = _through_aliases(by_key, key)
    tried = {model_key(name) if name else key}
    others = []
    for fallback in fallbacks:
        other = _through_aliases(by_key, model_key(fallback))[0] or fallback
        if model_key(other) not in tried:
            tried.add(model_key(other))
            others.append(other)
    return Meant(name, tuple(others))


def _through_aliases(by_key: Models, key: str) -> tuple[str, list[str]]:
    """Return what a name stands for in the end, and the fallbacks on the way there."""
    name = ""
    fallbacks: list[str] = []
    while (model := by_key.get(key)) is not None:
        fallbacks += model.fallback
        if model.alias_of is None:
            break
        name = model.alias_of
        key = model_key(name)
    return name, fallbacks


def _called(model: Model, name: str) -> Model:
    entry = {**model.entry, "name": name, "model": name}
    return replace(model, key=model_key(name), name=name, entry=entry)
