"""One run of a policy over HTTP."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import uvloop

from sollol.bench.balance import DIRECT_POLICIES, Balance
from sollol.bench.common.children import Children
from sollol.bench.common.machine import raise_file_limit
from sollol.bench.faults.script import Outage, act_out
from sollol.bench.fleets import Fleet
from sollol.bench.live.bodies import Sending, write_all
from sollol.bench.live.client import Generator, Received
from sollol.bench.live.processes import RunningNodes, start_gateway, start_nodes
from sollol.bench.outcome import Record, Replay
from sollol.bench.sim.engine import HOT_LOAD_S
from sollol.bench.workload import Request

PATIENCE_S = 900.0
"""Simulated seconds after the last arrival until what is not answered is given up."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the runs of a comparison have in common; ``folder`` takes what processes write."""

    fleet: Fleet
    folder: Path
    time_scale: float
    """Real seconds of a simulated one."""
    script: Sequence[Outage] = ()
    """Faults of the nodes."""


def run_policy(
    setup: Setup,
    policy: str,
    requests: Sequence[Request],
    *,
    seed: int,
    progress: Callable[[int], None],
) -> Replay:
    """Start nodes and a gateway, replay a workload, and stop them again.

    Args:
        progress: told after each request how many have ended.

    Raises:
        ChildFailed: a process did not do its part.
    """
    raise_file_limit()
    models = {m.name: m for config in setup.fleet.nodes.values() for m in config.models}
    sendings = write_all(requests, models)
    with Children(setup.folder) as children:
        nodes = start_nodes(children, setup.folder, setup.fleet, setup.time_scale)
        target: _Target
        if policy in DIRECT_POLICIES:
            target = _Straight(Balance(policy, setup.fleet, Random(seed)), nodes.ports)
        else:
            port = start_gateway(children, setup.fleet, nodes, policy, setup.time_scale)
            target = _Target(port)
        received = _send_all(setup, sendings, nodes, target, progress)
        states = nodes.states()
    return make_replay(sendings, received, states, setup.time_scale)


class _Target:
    """The gateway, which says in its answers which node gave them."""

    def __init__(self, port: int) -> None:
        self._port = port

    def choose(self, index: int, model: str) -> int:
        """Return the port that a request goes to."""
        return self._port

    def ended(self, received: Received, index: int) -> None:
        """Note the end of a request."""
        received.node = received.header("X-Sollol-Node")


class _Straight(_Target):
    """The nodes themselves."""

    def __init__(self, balance: Balance, ports: Mapping[str, int]) -> None:
        super().__init__(0)
        self._balance = balance
        self._ports = ports
        self._chosen: dict[int, str] = {}

    def choose(self, index: int, model: str) -> int:
        node = self._chosen[index] = self._balance.choose(model)
        return self._ports[node]

    def ended(self, received: Received, index: int) -> None:
        received.node = self._chosen[index]
        self._balance.ended(received.node)


def _send_all(
    setup: Setup,
    sendings: Sequence[Sending],
    nodes: RunningNodes,
    target: _Target,
    progress: Callable[[int], None],
) -> list[Received]:
    done = 0

    def ended(index: int) -> None:
        nonlocal done
        done += 1
        target.ended(generator.received[index], index)
        progress(done)

    generator = Generator(sendings, setup.time_scale, target.choose, ended)
    timeout_s = (sendings[-1].at + PATIENCE_S) * setup.time_scale
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_replay(setup, generator, nodes, timeout_s))
    return generator.received


async def _replay(
    setup: Setup, generator: Generator, nodes: RunningNodes, timeout_s: float
) -> None:
    """Send all requests while the nodes fail as the script has it."""
    async with asyncio.TaskGroup() as tasks:
        acting = tasks.create_task(act_out(setup.script, nodes.control_ports, setup.time_scale))
        await generator.run(timeout_s)
        acting.cancel()


def make_replay(
    sendings: Sequence[Sending],
    received: Sequence[Received],
    states: Sequence[Mapping[str, Any]],
    time_scale: float,
) -> Replay:
    """Return what came of a run, in simulated seconds."""
    loads = [load for state in states for load in state["loads"]]
    unloads = [unload for state in states for unload in state["unloads"]]
    start = received[0].due_at - sendings[0].at * time_scale
    return Replay(
        records=[_record(*pair, time_scale) for pair in zip(sendings, received, strict=True)],
        loads=len(loads),
        reloads=sum(load["reason"] == "reload" for load in loads),
        evictions=sum(unload["reason"] == "room" for unload in unloads),
        ended_at=(max(one.ended_at for one in received) - start) / time_scale,
        lateness_s=[max(0.0, one.sent_at - one.due_at) for one in received if one.sent_at],
    )


def _record(sending: Sending, received: Received, time_scale: float) -> Record:
    spent = received.durations_s()
    load_s = spent.get("load", 0.0)
    known_s = load_s + spent.get("prompt_eval", 0.0) + spent.get("eval", 0.0)
    first_byte_at = received.first_byte_at or received.ended_at
    return Record(
        arrived_at=sending.at,
        model=sending.model,
        priority=sending.priority,
        task=sending.task,
        outcome=received.outcome,
        node=received.node,
        queue_wait_s=_seconds(received.header("X-Sollol-Queue-Wait")),
        node_wait_s=max(0.0, spent.get("total", 0.0) - known_s) if "eval" in spent else 0.0,
        load_s=load_s,
        was_loaded=load_s > 2 * HOT_LOAD_S,
        cached_tokens=received.cached_tokens(),
        first_byte_s=(first_byte_at - received.due_at) / time_scale,
        latency_s=(received.ended_at - received.due_at) / time_scale,
        predicted_s=_seconds(received.header("X-Sollol-Predicted-Seconds")),
    )


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
