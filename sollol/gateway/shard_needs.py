"""Which models run over workers, as far as is known: what the rules say of the nodes and files there are."""

from collections.abc import Callable

from sollol.errors import ModelBroken
from sollol.gateway import shard_rules
from sollol.gateway.model_rules import ModelRules, is_listed
from sollol.gateway.shelf import Shelf
from sollol.nodes.registry import Registry
from sollol.types import NodeView, Source
from sollol.wire.names import shown_key


class Needs:
    """Owner of what is known of that.

    Args:
        patterns: models that run over workers though nodes have them (``sharding.models``).
        is_served: whether a model runs over workers at this moment; then it goes on doing so.
        rules_changed: called when another model runs over workers, or one does no more.
    """

    def __init__(
        self,
        registry: Registry,
        rules: ModelRules,
        shelf: Shelf,
        patterns: tuple[str, ...],
        is_served: Callable[[str], bool],
        rules_changed: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._rules = rules
        self._shelf = shelf
        self._patterns = patterns
        self._is_served = is_served
        self._rules_changed = rules_changed
        self._known: dict[str, bool] = {}
        """Model -> whether it runs over workers, as long as the nodes do not change."""
        self._meant: set[str] = set()
        """Models that run over workers: the nodes that have them are not to be asked."""

    def may_be_for(self, key: str) -> bool:
        """Whether a model may run over workers; :meth:`is_for` says so for certain."""
        return self._known.get(key, True)

    async def is_for(self, key: str) -> bool:
        """Whether a model runs over workers.

        Raises:
            ModelBroken: it would, but its files are damaged.
        """
        known = self._known.get(key)
        return await self._look(key) if known is None else known

    def is_allowed(self, node_id: str, key: str) -> bool:
        """Whether a node may be asked for a model, as far as it runs over workers."""
        node = self._registry.find(node_id)
        return node is None or (node.source is Source.SHARD) == (key in self._meant)

    def forget(self, key: str) -> None:
        """Look anew when a model is asked for."""
        self._known.pop(key, None)

    def node_changed(self, view: NodeView) -> None:
        """Take note that a node has other models, perhaps."""
        node = self._registry.find(view.id)
        if node is None or node.source is not Source.SHARD:
            self._known.clear()

    def node_removed(self) -> None:
        """Take note that a node is gone, and its models with it."""
        self._known.clear()

    async def _look(self, key: str) -> bool:
        """Find out whether a model runs over workers, and remember that."""
        if self._is_served(key):
            return True
        holders = [
            node.view
            for node in self._registry.nodes()
            if node.source is not Source.SHARD and key in node.view.models
        ]
        listed = is_listed(key, self._patterns)
        is_wanted = not self._rules.pinned_to(key) and shard_rules.needs_workers(
            key, holders, is_listed=listed
        )
        if is_wanted:
            is_wanted = await self._has_files(key, is_had=bool(holders))
        if is_wanted or holders:
            self._known[key] = is_wanted
        if is_wanted != (key in self._meant):
            self._meant ^= {key}
            self._rules_changed()
        return is_wanted

    async def _has_files(self, key: str, *, is_had: bool) -> bool:
        try:
            return await self._shelf.find(key) is not None
        except ModelBroken as error:
            if is_had:
                return False
            raise shard_rules.naming(shown_key(key), error) from None
