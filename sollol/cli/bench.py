"""``sollol bench``: policies side by side on simulated nodes."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sollol.cli.errors import CommandError

if TYPE_CHECKING:
    from sollol.bench.comparison import Plan

EXAMPLES = """Examples:

  sollol bench --virtual

  sollol bench --policies fastest,round_robin --rate 0.8 --rounds 3

  sollol bench --workload azure --trace AzureLLMInferenceTrace_conv.csv --virtual

  sollol bench --faults"""

_POLICIES = "fastest,least_in_flight,round_robin"
_WITH_FAULTS = "fastest,round_robin:no_retries"
_FAULTS_LOAD = 0.5
"""With faults, this share of what --carry carries: no request is to fail for want of room."""


class FleetName(StrEnum):
    """Fleets of simulated nodes."""

    HETEROGENEOUS = "heterogeneous"
    HOMOGENEOUS = "homogeneous"


class WorkloadName(StrEnum):
    """Kinds of traffic."""

    SYNTHETIC = "synthetic"
    CONTEXTS = "contexts"
    AZURE = "azure"
    MOONCAKE = "mooncake"


def bench(  # noqa: PLR0913, PLR0917 - each is an option of the command
    policies: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            show_default=f"{_POLICIES}; with --faults {_WITH_FAULTS}",
            help="Comma-separated: fastest, least_in_flight, resident_first, round_robin, random, "
            "weighted, each also with :no_retries behind it; and without a gateway "
            "direct_round_robin, direct_least_connections.",
        ),
    ] = None,
    fleet: Annotated[
        FleetName, typer.Option(help="Six nodes from CPU to fast 24 GB, or four equal ones.")
    ] = FleetName.HETEROGENEOUS,
    workload: Annotated[
        WorkloadName,
        typer.Option(
            help="Mixed traffic in bursts; applications with different num_ctx; or a trace."
        ),
    ] = WorkloadName.SYNTHETIC,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Azure's CSV or Mooncake's JSON lines; none is shipped."),
    ] = None,
    start_s: Annotated[
        float, typer.Option("--start", metavar="SECONDS", min=0, help="Where the trace begins.")
    ] = 0.0,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            min=0.001,
            show_default="what --carry carries",
            help="Requests a second of the nodes' time.",
        ),
    ] = None,
    carry: Annotated[
        str,
        typer.Option(
            metavar="POLICY",
            help="Without --rate, requests come as fast as it just carries; with --faults half as "
            "fast.",
        ),
    ] = "least_in_flight",
    requests: Annotated[int, typer.Option(min=2, help="Requests in a round.")] = 500,
    time_scale: Annotated[
        float, typer.Option(min=0.001, max=1, help="Real seconds of a second of the nodes' time.")
    ] = 0.05,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each has another seed.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the first round.")] = 1,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the report goes.")] = Path(
        "bench-report"
    ),
    virtual: Annotated[
        bool, typer.Option("--virtual", help="In this process, on a virtual clock: seconds.")
    ] = False,
    faults: Annotated[
        bool,
        typer.Option(
            "--faults", help="Nodes fail, one after another and in many ways: who is answered?"
        ),
    ] = False,
) -> None:
    """Compare scheduling policies on simulated nodes and write a report.

    Real gateways are started one after another, over HTTP, in front of simulated Ollama nodes.
    With --faults, the nodes fail on the same script under each policy, and the report says which
    share of the requests was answered.
    """
    from sollol.bench.common.children import ChildFailed
    from sollol.bench.comparison import Plan, carried_rate, compare
    from sollol.bench.fleets import FLEETS
    from sollol.bench.report.files import make_folder, write_report
    from sollol.bench.report.outages import answered_lines
    from sollol.bench.text import tables
    from sollol.bench.workloads import Kind, Source

    try:
        source = Source(Kind(workload.value), trace, start_s)
        nodes = FLEETS[fleet.value]
        names = policies or (_WITH_FAULTS if faults else _POLICIES)
        load = _FAULTS_LOAD if faults else 1.0
        rate_per_s = rate or load * carried_rate(carry, nodes, source, max(requests, 1000), seed)
        plan = Plan(
            policies=[name.strip() for name in names.split(",")],
            fleet=nodes,
            source=source,
            requests=requests,
            rounds=rounds,
            seed=seed,
            rate_per_s=rate_per_s,
            time_scale=None if virtual else time_scale,
            with_faults=faults,
        )
        make_folder(out)
    except (OSError, ValueError) as error:
        raise CommandError([str(error)], exit_code=2) from None
    print(_announcement(plan))
    try:
        comparison = compare(plan, shlex.join(["sollol", *sys.argv[1:]]), _Progress())
        paths = write_report(comparison, out)
    except (ChildFailed, OSError, ValueError) as error:
        raise CommandError([str(error)]) from None
    print(f"\n{tables(list(comparison.summaries.values()))}\n")
    if faults:
        print("\n".join([*answered_lines(comparison), ""]))
    for path in paths:
        print(path)


def _announcement(plan: "Plan") -> str:
    what = f"{plan.fleet.name} fleet, {plan.source.kind}, {plan.rate_per_s:.2f} requests a second"
    if plan.time_scale is None:
        return f"{what}, on a virtual clock"
    runs = len(plan.policies) * plan.rounds
    each_s = plan.requests / plan.rate_per_s * plan.time_scale
    return f"{what}, over HTTP: {runs} runs of {each_s:.0f} s or more"


class _Progress:
    """A line for each run on standard error; on a terminal it counts up."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, name: str, ended: int, *, count: int) -> None:
        is_end = ended == count
        if self._is_terminal:
            print(f"\r{name}: {ended}/{count}", end="\n" if is_end else "", file=sys.stderr)
        elif is_end:
            print(f"{name}: {count} requests", file=sys.stderr, flush=True)
