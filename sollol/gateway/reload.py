"""What changed settings mean for the nodes there are; pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sollol.settings import NodeSettings, Settings
from sollol.settings.model import setting_names
from sollol.types import Source

LIVE = ("nodes", "discovery", "models")
"""What of the settings takes effect at once."""


@dataclass(slots=True)
class NodePlan:
    """Nodes to change, to add and (ids) to remove; what is removed may be in the way of others."""

    changed: list[NodeSettings] = field(default_factory=list)
    added: list[NodeSettings] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)


def plan_nodes(
    current: Mapping[str, tuple[NodeSettings, Source]], wanted: Iterable[NodeSettings]
) -> NodePlan:
    """Return how to get from the nodes there are to those the settings list.

    1. One with the same id and URL is changed where it stands, and listed from now on.
    2. One that has the id or the URL, but not both, has to leave; the listed one is added then.
    3. A listed node that is listed no more leaves. Those that came another way stay.
    """
    plan = NodePlan()
    kept: set[str] = set()
    for settings in wanted:
        known, source = current.get(settings.id, (None, None))
        if known is not None and known.url == settings.url:
            kept.add(settings.id)
            if known != settings or source is not Source.SETTINGS:
                plan.changed.append(settings)
            continue
        plan.removed |= {
            node_id
            for node_id, (other, _) in current.items()
            if node_id == settings.id or other.url == settings.url
        }
        plan.added.append(settings)
    listed = {node_id for node_id, (_, source) in current.items() if source is Source.SETTINGS}
    plan.removed |= listed - kept
    return plan


def needs_restart(running: Settings, wanted: Settings) -> list[str]:
    """Return the names of changed settings that are read at the start only."""
    return [
        name
        for name in setting_names()
        if name.partition(".")[0] not in LIVE and _value(running, name) != _value(wanted, name)
    ]


def _value(settings: Settings, name: str) -> object:
    group, _, member = name.partition(".")
    return getattr(getattr(settings, group), member)
