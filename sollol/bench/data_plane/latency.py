"""Short requests at a fixed rate: what a proxy adds to each while it is not pressed."""

import json
from collections.abc import Sequence

from sollol.bench.data_plane.proxies import Bench, Target
from sollol.bench.data_plane.results import LatencyRun

RATE_PER_S = 500


def measure_latency(
    bench: Bench, targets: Sequence[Target], *, rounds: int, seconds: int
) -> dict[str, list[LatencyRun]]:
    """Measure each target once a round, in turn.

    Raises:
        ChildFailed: a request failed.
    """
    for target in targets:
        _run(bench, target, 1)
    runs: dict[str, list[LatencyRun]] = {target.name: [] for target in targets}
    for _ in range(rounds):
        for target in targets:
            runs[target.name].append(_run(bench, target, seconds))
    return runs


def _run(bench: Bench, target: Target, seconds: int) -> LatencyRun:
    client = bench.start_client(
        "paced_client",
        "--port", str(target.port),
        "--rate-per-s", str(RATE_PER_S),
        "--requests", str(RATE_PER_S * seconds),
    )  # fmt: skip
    report = json.loads(client.output(seconds + 20))
    p50_s, p99_s = report["latency_s"]
    return LatencyRun(p50_s, p99_s, report["lateness_p99_s"])
