"""``make bench``: what SOLLOL costs between a client and a node.

Each part (``short.py``, ``latency.py``, ``streams.py``, ``blob.py``) measures
all proxies in turn; ``report.py`` makes the page.
"""

import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sollol.bench.common.children import ChildFailed, Children
from sollol.bench.common.machine import (
    ForeignLoad,
    Layout,
    TooFewCores,
    describe_machine,
    raise_file_limit,
)
from sollol.bench.data_plane.blob import measure_blob
from sollol.bench.data_plane.latency import measure_latency
from sollol.bench.data_plane.proxies import Bench, Target, Tools
from sollol.bench.data_plane.report import render
from sollol.bench.data_plane.results import HTTPX, Results
from sollol.bench.data_plane.short import measure_short
from sollol.bench.data_plane.streams import (
    STREAMS_100,
    STREAMS_500,
    STREAMS_500_SLOW,
    STREAMS_1000,
    measure_leaving,
    measure_streams,
)

PAGE = Path("docs/benchmarks/data-plane.md")
INSTALL = "apt-get install nginx-light wrk"


class Part(StrEnum):
    """What may be measured alone."""

    SHORT = "short"
    LATENCY = "latency"
    STREAMS = "streams"
    BLOB = "blob"


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure."""

    rounds: int
    stream_rounds: int
    short_s: int
    latency_s: int
    stream_s: int
    blob_bytes: int


FULL = Plan(rounds=3, stream_rounds=3, short_s=4, latency_s=4, stream_s=4, blob_bytes=4 << 30)
QUICK = Plan(rounds=3, stream_rounds=1, short_s=1, latency_s=1, stream_s=2, blob_bytes=512 << 20)


def measure(bench: Bench, plan: Plan, parts: frozenset[Part]) -> Results:
    """Measure what the installed tools allow."""
    results = Results(is_quick=plan is QUICK)
    results.missing = _missing(bench.tools)
    if Part.SHORT in parts and bench.tools.nginx and bench.tools.wrk:
        _say("short requests, as many as fit")
        node = bench.start_fixed_node(bench.tools.nginx)
        targets = _targets(bench, node, bench.start_sollol(node))
        results.short = measure_short(
            bench, bench.tools.wrk, targets, rounds=plan.rounds, seconds=plan.short_s
        )
    if parts & {Part.LATENCY, Part.STREAMS}:
        _measure_with_stream_node(bench, plan, parts, results)
    if Part.BLOB in parts:
        _say("a large blob")
        node = bench.start_sim_node()
        results.blob = measure_blob(
            bench,
            [node, bench.start_sollol(node)],
            rounds=plan.stream_rounds,
            size_bytes=plan.blob_bytes,
        )
    return results


def _measure_with_stream_node(
    bench: Bench, plan: Plan, parts: frozenset[Part], results: Results
) -> None:
    node = bench.start_stream_node()
    sollol = bench.start_sollol(node)
    results.idle_rss_bytes = sollol.child.rss_bytes()
    targets = _targets(bench, node, sollol)
    if Part.LATENCY in parts:
        _say("short requests at a fixed rate")
        keeps_up = [target for target in targets if target.name != HTTPX]
        results.latency = measure_latency(
            bench, keeps_up, rounds=plan.rounds, seconds=plan.latency_s
        )
    if Part.STREAMS in parts:
        _say("streams")
        loads = [STREAMS_100, STREAMS_500, STREAMS_1000, STREAMS_500_SLOW]
        if plan is QUICK:
            loads.remove(STREAMS_500)
        results.streams = measure_streams(
            bench, node, targets, loads, rounds=plan.stream_rounds, seconds=plan.stream_s
        )
        _say("clients that leave")
        results.leaving = measure_leaving(bench, node, sollol)


def _targets(bench: Bench, node: Target, sollol: Target) -> list[Target]:
    nginx = [bench.start_nginx(bench.tools.nginx, node)] if bench.tools.nginx else []
    return [node, *nginx, bench.start_httpx(node), sollol]


def _missing(tools: Tools) -> list[str]:
    absent = [name for name in ("nginx", "wrk") if getattr(tools, name) is None]
    if not absent:
        return []
    parts = "all comparisons with nginx and " if "nginx" in absent else ""
    return [
        f"Not measured: {parts}short requests as many as fit, because {' and '.join(absent)} "
        f"cannot be found (`{INSTALL}`)."
    ]


def run(
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter rounds: about a minute, less to trust.")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help=f"Write the report to {PAGE} as well.")
    ] = False,
    only: Annotated[
        list[Part] | None,
        typer.Option("--only", help="Measure this part alone; may be repeated."),
    ] = None,
) -> None:
    """Measure SOLLOL next to no proxy, nginx and an httpx proxy, and print a Markdown report.

    Everything runs on loopback: proxies on one core, the node and the load on the others.
    A full run takes five to six minutes. Needs Linux, two cores, nginx and wrk
    (apt-get install nginx-light wrk); without these, what needs them is left out.
    """
    if write and only:
        raise typer.BadParameter("--write is for a run of all parts")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    tools = Tools(nginx=_find("nginx"), wrk=_find("wrk"))
    try:
        results = _measure_all(tools, QUICK if quick else FULL, frozenset(only or Part))
    except (ChildFailed, TooFewCores) as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(1) from None
    page = render(results)
    print(page)
    if write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page, "utf-8")


def _measure_all(tools: Tools, plan: Plan, parts: frozenset[Part]) -> Results:
    raise_file_limit()
    layout = Layout.of_machine()
    for text in _missing(tools):
        _say(text)
    foreign = ForeignLoad()
    with (
        tempfile.TemporaryDirectory(prefix="sollol-bench-") as folder,
        Children(Path(folder)) as children,
    ):
        results = measure(Bench(children, layout, Path(folder), tools), plan, parts)
    results.foreign_ratio = foreign.ratio()
    results.machine = describe_machine(tools.nginx, tools.wrk)
    results.layout = f"CPU {_names(layout.proxy)}: the proxy; CPU {_names(layout.load)}: all else"
    return results


def _find(program: str) -> str | None:
    # A person's path often lacks the folder that Debian puts nginx into.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def _names(cores: frozenset[int]) -> str:
    return ", ".join(str(core) for core in sorted(cores))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    typer.run(run)
