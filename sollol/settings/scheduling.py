"""Settings of who waits, which node answers, and of single models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sollol.settings.values import Count, ExpandedPath, Group, Seconds, listed, parsed_json
from sollol.types import HIGHEST_PRIORITY, LOWEST_PRIORITY
from sollol.wire.goduration import parse_duration
from sollol.wire.names import model_key

Priority = Annotated[int, Field(ge=LOWEST_PRIORITY, le=HIGHEST_PRIORITY)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(listed)]


def _is_keep_alive(value: str) -> str:
    """Accept what Ollama accepts: seconds as a number, or a duration as Go writes it."""
    if not is_number(value):
        parse_duration(value)
    return value


def is_number(text: str) -> bool:
    """Whether a text is a plain number, as JSON has it."""
    return text.removeprefix("-").replace(".", "", 1).isdecimal() and text.isascii()


def _as_text(value: object) -> object:
    is_a_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_a_number else value


def _none_if_off(value: object) -> object:
    """Take ``off`` for nothing: an empty variable of the environment counts as not given."""
    return None if value in ("", "off", False) else value


KeepAlive = Annotated[str, BeforeValidator(_as_text), AfterValidator(_is_keep_alive)]


class QueueSettings(Group):
    """Requests that wait for a free slot."""

    max_length: int = Field(512, ge=0)
    """Requests that may wait at once; one more gets 503."""
    timeout_s: Seconds = 300.0
    """Seconds a request may wait; then it gets 504."""
    ageing_s: Seconds = 10.0
    """Seconds of waiting that are worth one level of priority."""
    default_priority: Priority = 5
    """Priority of a request that names none; a larger one is more urgent."""
    max_priority: Priority = 10
    """The highest priority that a request may name; a higher one counts as this."""
    max_share_per_caller: float = Field(0.25, gt=0, le=1)
    """Share of the places to wait that one caller may have while others wait too."""
    max_in_flight_per_caller: Count | None = None
    """Requests that one caller may have on nodes at once; more of its wait. No bound when not given."""

    @field_validator("max_priority")
    @classmethod
    def _is_in_order(cls, max_priority: int, info: ValidationInfo) -> int:
        if max_priority < info.data.get("default_priority", 0):
            raise ValueError("is below default_priority")
        return max_priority


class SchedulingSettings(Group):
    """Which node answers."""

    policy: Literal[
        "fastest", "least_in_flight", "resident_first", "round_robin", "random", "weighted"
    ] = "fastest"
    """How a node is chosen; `fastest`: where the answer is there soonest, as predicted."""
    context_protection: Literal["off", "strip", "route"] = "route"
    """What is done about runner options such as `num_ctx`, which can make a node load a model anew:
    `route` counts the load in, `strip` also replaces them with those of the loaded model where that
    cuts nothing short, `off` takes no notice."""
    affinity: bool = True
    """Whether a conversation is worth going back to the node that remembers it."""
    explore_share: float = Field(0.01, ge=0, le=0.05)
    """Share of the requests that may be spent on finding out whether a slow node has recovered."""
    journal_length: int = Field(2000, ge=0, le=1_000_000)
    """Requests that have ended of which decisions are kept, to be explained; about 1 kB each."""
    keep_alive: KeepAlive | None = None
    """Sent to Ollama nodes with requests that say no `keep_alive`: a duration such as `30m`, or
    seconds; negative keeps a model for good. Nothing is added when not given."""
    keep_alive_overrides: bool = False
    """Send `keep_alive` in place of what callers say too; requests to unload stay as they are."""

    prewarm: bool = True
    """Load a model before it is asked for where its copies cannot serve the demand for long."""
    state_file: Annotated[ExpandedPath | None, BeforeValidator(_none_if_off)] = Path(
        "~/.local/state/sollol/estimates.json"
    )
    """Where learned speeds and lengths are kept between runs; `off` for nowhere.
    `XDG_STATE_HOME`, when set, changes the default."""

    @field_validator("keep_alive_overrides")
    @classmethod
    def _has_something_to_send(cls, overrides: bool, info: ValidationInfo) -> bool:
        if overrides and info.data.get("keep_alive", "") is None:
            raise ValueError("needs keep_alive")
        return overrides


class ModelSettings(Group):
    """What holds for one model, by its name."""

    pin: Names = ()
    """Ids of the only nodes that may run it."""
    alias_of: Name | None = None
    """The model that is meant by this name; requests are sent on with that name."""
    fallback: Names = ()
    """Models tried in this order when no node that is up has the model."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if self.alias_of is not None and self.pin:
            raise ValueError("an alias cannot be pinned; pin the model that it stands for")
        return self


def model_map(value: object) -> object:
    """Accept a mapping, or JSON text of one: the environment can only give text."""
    return parsed_json(value) if isinstance(value, str) else value


def check_models(models: Mapping[str, ModelSettings]) -> None:
    """Check what entries say of each other.

    Raises:
        ValueError: one model is named twice, aliases form a loop, or a model is its own fallback.
    """
    by_key: dict[str, str] = {}
    for name in models:
        other = by_key.setdefault(model_key(name), name)
        if other != name:
            raise ValueError(f"{other} and {name} are one model")
    for name, model in models.items():
        if any(model_key(other) == model_key(name) for other in model.fallback):
            raise ValueError(f"{name} is its own fallback")
        _check_alias(name, {key: models[written] for key, written in by_key.items()})


def _check_alias(name: str, by_key: Mapping[str, ModelSettings]) -> None:
    path = [name]
    keys = {model_key(name)}
    while (model := by_key.get(model_key(path[-1]))) and model.alias_of is not None:
        path.append(model.alias_of)
        if model_key(model.alias_of) in keys:
            raise ValueError(f"aliases in a loop: {' -> '.join(path)}")
        keys.add(model_key(model.alias_of))
