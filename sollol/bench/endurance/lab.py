"""A real gateway over simulated nodes, each a process, and what the gateway takes meanwhile."""

import asyncio
import contextlib
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from sollol.bench.common.children import Child, ChildFailed, Children
from sollol.bench.common.machine import ForeignLoad, describe_machine, raise_file_limit
from sollol.bench.common.verdicts import MIB, Verdict, table
from sollol.bench.data_plane.proxies import get_json
from sollol.bench.fleets import Fleet
from sollol.bench.live.processes import RunningNodes, start_nodes
from sollol.ports import free_port

SAMPLE_S = 0.25
_READY_S = 30.0

WriteOption = Annotated[bool, typer.Option("--write", help="Write the report to its page as well.")]


@dataclass(frozen=True, slots=True)
class Sample:
    """What the gateway's process holds at one moment."""

    at: float
    rss_bytes: int
    files: int


@dataclass
class Lab:
    """The processes and their ports. ``samples`` grow while :meth:`sampling` runs."""

    nodes: RunningNodes
    gateway: Child
    port: int
    samples: list[Sample] = field(default_factory=list)

    def sample(self) -> Sample:
        """Look at the gateway's process.

        Raises:
            ChildFailed: it has ended.
        """
        self.gateway.check_alive()
        files = sum(1 for _ in Path(f"/proc/{self.gateway.process.pid}/fd").iterdir())
        return Sample(time.monotonic(), self.gateway.rss_bytes(), files)

    async def sampling(self) -> None:
        """Look at it every now and then, until cancelled."""
        while True:
            self.samples.append(self.sample())
            await asyncio.sleep(SAMPLE_S)

    def metrics(self) -> dict[str, float]:
        """Return the gateway's metrics, summed over their labels."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        sums: dict[str, float] = {}
        for line in lines:
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums


@contextlib.contextmanager
def running_lab(fleet: Fleet, settings: Mapping[str, object]) -> Iterator[Lab]:
    """Start nodes and ``sollol serve`` over them, and end all of them again.

    Raises:
        ChildFailed: one does not come up.
    """
    raise_file_limit()
    with (
        tempfile.TemporaryDirectory(prefix="sollol-bench-") as folder,
        Children(Path(folder)) as children,
    ):
        nodes = start_nodes(children, Path(folder), fleet, 0.0)
        port = free_port()
        values = {"discovery.local": "false", "scheduling.state_file": "off", **settings}
        command = [sys.executable, "-m", "sollol", "serve", "--no-embedded", "--port", str(port)]
        command += ["--log-format", "json"]
        command += [f"--set={name}={value}" for name, value in values.items()]
        listed = [
            {"url": f"http://127.0.0.1:{nodes.ports[name]}", "name": name, "slots": config.slots}
            for name, config in fleet.nodes.items()
        ]
        variables = {"SOLLOL_NODES": json.dumps(listed)}
        gateway = children.start("gateway", command, variables=variables)
        gateway.wait_listening(port)
        _wait_ready(gateway, port, len(listed))
        yield Lab(nodes, gateway, port)


def _wait_ready(gateway: Child, port: int, count: int) -> None:
    end = time.monotonic() + _READY_S
    while time.monotonic() < end:
        gateway.check_alive()
        if get_json(port, "/ready")[1].get("healthy_nodes") == count:
            return
        time.sleep(0.05)
    raise ChildFailed(f"the gateway does not see all nodes\n{gateway.last_output()}")


def run_async(main: Coroutine[Any, Any, None]) -> None:
    """Run a measurement."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def report(
    path: Path, measure: Callable[[], tuple[str, list[Verdict], str]], *, write: bool
) -> None:
    """Print what ``measure`` gives (introduction, limits, figures) as a page; exit 1 if a limit fails."""
    foreign = ForeignLoad()
    try:
        intro, verdicts, figures = measure()
    except ChildFailed as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(1) from None
    rows = [(v.text, v.limit, v.measured, "yes" if v.holds else "**no**") for v in verdicts]
    limits = "## Limits\n\n" + table(("", "limit", "measured", "holds"), rows)
    machine = [
        *describe_machine(None, None)[:4],
        ("Other work on the machine", f"{foreign.ratio():.0%}"),
    ]
    page = "\n".join((intro, limits, figures, "## Machine\n\n" + table(("", ""), machine)))
    print(page)
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, "utf-8")
    if not all(verdict.holds for verdict in verdicts):
        raise typer.Exit(1)


def say(text: str) -> None:
    """Tell a person who waits what happens."""
    sys.stderr.write(f"{text}\n")


def mib(size_bytes: float) -> str:
    """Write a size."""
    return f"{size_bytes / MIB:.1f} MiB"


def ms(seconds: float) -> str:
    """Write a short time."""
    return f"{seconds * 1e3:.1f} ms"
