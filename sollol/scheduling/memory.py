"""What is in a node's memory, by the latest view of it and by what we did since; what must leave."""

from collections.abc import Sequence

from sollol.scheduling.state import LOCAL_TRUTH_S, Node, Options, Runner
from sollol.types import NodeView, Resident

PUSHED_WITHIN_S = 60.0
"""What leaves so soon after another model began to load was pushed out by it."""


def beside(runner: Runner) -> list[Runner]:
    """Return the other models in the memory of a runner's node."""
    return [other for other in runner.node.loaded.values() if other is not runner]


def together(runner: Runner, others: Sequence[Runner]) -> tuple[int, int]:
    """Return the bytes that a model and others take in memory, and how many models that is."""
    return runner.need_bytes + sum(other.need_bytes for other in others), len(others) + 1


def victims(runner: Runner) -> list[Runner]:
    """Return what a node will unload for a model to be loaded, in the order it will.

    Source: Ollama, server/sched.go, findRunnerToUnload: an idle one first, then the one that was
    not used for longest; a busy one is waited for.
    """
    node = runner.node
    others = beside(runner)
    used_bytes, count = together(runner, others)
    if node.capacity.has_room(used_bytes, count):
        return []
    others.sort(key=lambda other: (bool(other.running), other.used_at))
    leaving = []
    for other in others:
        leaving.append(other)
        used_bytes -= other.need_bytes
        count -= 1
        if node.capacity.has_room(used_bytes, count):
            break
    return leaving


def begin_load(runner: Runner, options: Options, load_s: float, now: float) -> None:
    """Note that a model is being loaded, and that others leave for it."""
    for other in victims(runner):
        other.unload()
        other.was_pushed_out = True
        other.touched_at = now
    node = runner.node
    if node.claim is runner:  # the room is made; those that left may claim it back in their turn
        node.claim, node.leaving = None, ()
    runner.load(options, now)
    runner.ready_at = now + load_s
    runner.touched_at = now


def is_loading(runner: Runner, now: float) -> bool:
    """Whether a load is under way: as predicted, or because somebody still waits for it."""
    return runner.ready_at > now or any(
        held.loads and not held.is_loaded for held in runner.running.values()
    )


def index(node: Node, view: NodeView) -> None:
    """Bring the runners of a node in line with the models that it has on disk."""
    names: dict[str, list[str]] = {}
    for model in view.models:
        names.setdefault(view.runner(model), []).append(model)
    before, node.runners, node.by_model = node.runners, {}, {}
    for key, models in names.items():
        known = view.models[models[0]]
        runner = before.get(key) or Runner(node, key, known.size_bytes)
        runner.names = tuple(models)
        runner.context_length = known.context_length
        runner.capabilities = known.capabilities
        node.runners[key] = runner
        node.by_model.update(dict.fromkeys(models, runner))
    for key, runner in before.items():
        if key in node.runners:
            continue
        if runner.running:  # it may come back before they end, and has no more slots then
            node.runners[key] = runner
        else:
            runner.unload()


def reconcile(node: Node, view: NodeView, now: float) -> None:
    """Take over which models a node says it has in memory, and learn what fits there together."""
    seen = {view.runner(name): held for name, held in view.resident.items() if name in view.models}
    came = [key for key in seen if key in node.runners and not node.was_seen(key)]
    left = [key for key in node.seen if key not in seen and key in node.runners]
    if came and left:  # an expiry in the same moment is rare, and time corrects it
        bytes_before = sum(_bytes(held) for held in node.seen.values())
        bytes_come = sum(_bytes(seen[key]) for key in came)
        node.capacity.seen_too_much(bytes_before + bytes_come, len(node.seen) + len(came))
    lately = (r for r in node.loaded.values() if now - r.loaded_at < PUSHED_WITHIN_S)
    if came or any(runner.key not in left for runner in lately):
        for key in left:  # while the other one loads, the node tells of neither
            node.runners[key].was_pushed_out = True
    node.seen = seen
    node.capacity.seen_together(sum(map(_bytes, seen.values())), len(seen))
    for key, runner in node.runners.items():
        _reconcile(runner, seen.get(key), now)


def _reconcile(runner: Runner, seen: Resident | None, now: float) -> None:
    if seen is not None:
        runner.seen_at = now
        runner.need_bytes = _bytes(seen) or runner.need_bytes
        runner.num_ctx = seen.context_length
        if runner.options == ():
            runner.default_ctx = seen.context_length
        runner.cpu_share = seen.cpu_share
    if (runner.running and runner.is_resident) or now - runner.touched_at < LOCAL_TRUTH_S:
        return
    if seen is None:
        runner.unload()
    elif not runner.is_resident:
        runner.load(None, now)
        runner.num_ctx = seen.context_length


def _bytes(seen: Resident) -> int:
    return seen.vram_bytes or seen.size_bytes
