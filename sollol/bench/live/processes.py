"""The processes of a run over HTTP: the simulated nodes and, for a policy, a gateway."""

import http.client
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from sollol.bench.common.children import Child, ChildFailed, Children
from sollol.bench.data_plane.proxies import get_json
from sollol.bench.fleets import Fleet
from sollol.bench.virtual.policies import QUEUE_MAX_LENGTH
from sollol.ports import free_port

NO_RETRIES = ":no_retries"
"""Behind the name of a policy: its gateway tries each request on one node only."""
_READY_TIMEOUT_S = 60.0
_SOCKET_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class RunningNodes:
    """Ports of the nodes, and of their side channels, by name."""

    ports: Mapping[str, int]
    control_ports: Mapping[str, int]
    child: Child

    def states(self) -> list[dict[str, Any]]:
        """Return what each node has done so far.

        Raises:
            ChildFailed: one does not answer.
        """
        try:
            return [get_json(port, "/sim/state")[1] for port in self.control_ports.values()]
        except (OSError, http.client.HTTPException, ValueError) as error:
            text = f"a simulated node does not answer: {error}\n{self.child.last_output()}"
            raise ChildFailed(text) from error


def start_nodes(children: Children, folder: Path, fleet: Fleet, time_scale: float) -> RunningNodes:
    """Start fresh nodes with nothing in memory, all in one process.

    Raises:
        ChildFailed: they do not come up.
    """
    ports = {name: free_port() for name in fleet.nodes}
    control_ports = {name: free_port() for name in fleet.nodes}
    configs = [
        replace(
            config,
            port=ports[name],
            control_port=control_ports[name],
            time_scale=time_scale,
        )
        for name, config in fleet.nodes.items()
    ]
    file = folder / f"nodes-{min(ports.values())}.json"
    file.write_bytes(msgspec.json.encode(configs))
    command = [sys.executable, "-m", "sollol.bench.live.nodes", str(file)]
    child = children.start("nodes", command)
    for port in (*ports.values(), *control_ports.values()):
        child.wait_listening(port)
    return RunningNodes(ports, control_ports, child)


def start_gateway(
    children: Children, fleet: Fleet, nodes: RunningNodes, policy: str, time_scale: float
) -> int:
    """Start a gateway that lives in the nodes' time; return its port once all nodes are up.

    Raises:
        ChildFailed: it does not come up.
    """
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "sollol.cli.bench_gateway",
        str(time_scale),
        *gateway_settings(policy, port, time_scale),
    ]
    listed = [
        {
            "url": f"http://127.0.0.1:{nodes.ports[name]}",
            "name": name,
            "slots": config.slots,
        }
        for name, config in fleet.nodes.items()
    ]
    variables = {"SOLLOL_NODES": json.dumps(listed)}
    child = children.start("gateway", command, variables=variables)
    child.wait_listening(port)
    _wait_healthy(child, port, len(listed))
    return port


def gateway_settings(policy: str, port: int, time_scale: float) -> list[str]:
    """Return what is set, as ``group.name=value``, for a policy that may be without retries.

    No waiting request is refused for their number. Sockets are no faster than in real time, so
    what the gateway lets them take is no shorter.
    """
    policy, no_retries, _ = policy.partition(NO_RETRIES)
    settings: dict[str, object] = {
        "server.port": port,
        "embedded.enabled": "false",
        "discovery.local": "false",
        "log.level": "warning",
        "log.format": "json",
        "queue.max_length": QUEUE_MAX_LENGTH,
        "scheduling.policy": policy,
        "scheduling.state_file": "off",  # each run begins without history
        "probe.timeout_s": _SOCKET_TIMEOUT_S / time_scale,
        "upstream.connect_timeout_s": _SOCKET_TIMEOUT_S / time_scale,
    }
    if no_retries:
        settings["upstream.max_attempts"] = 1
    return [f"{name}={value}" for name, value in settings.items()]


def _wait_healthy(child: Child, port: int, count: int) -> None:
    end = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < end:
        child.check_alive()
        _, state = get_json(port, "/ready")
        if state.get("healthy_nodes") == count:
            return
        time.sleep(0.05)
    raise ChildFailed(f"the gateway does not see all nodes\n{child.last_output()}")
