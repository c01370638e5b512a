"""Short requests, as many as 64 connections bring: what a request costs."""

import json
from collections.abc import Sequence
from pathlib import Path

from sollol.bench.common.children import ChildFailed
from sollol.bench.data_plane.bodies import chat_request
from sollol.bench.data_plane.proxies import Bench, Target
from sollol.bench.data_plane.results import ShortRun

CONNECTIONS = 64
_WARM_UP_S = 1
_SCRIPT = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{body}]==]
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {{"requests":%d,"duration_us":%d,"errors":%d,"p50_us":%d,"p99_us":%d}}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


def measure_short(
    bench: Bench, wrk: str, targets: Sequence[Target], *, rounds: int, seconds: int
) -> dict[str, list[ShortRun]]:
    """Measure each target once a round, in turn.

    Raises:
        ChildFailed: a request failed.
    """
    script = bench.folder / "chat.lua"
    script.write_text(_SCRIPT.format(body=chat_request(stream=False).decode()))
    for target in targets:
        _run(bench, wrk, script, target, _WARM_UP_S)
    runs: dict[str, list[ShortRun]] = {target.name: [] for target in targets}
    for _ in range(rounds):
        for target in targets:
            runs[target.name].append(_run(bench, wrk, script, target, seconds))
    return runs


def _run(bench: Bench, wrk: str, script: Path, target: Target, seconds: int) -> ShortRun:
    command = [
        wrk, "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s",
        "--timeout", "10s", "--script", str(script), f"http://127.0.0.1:{target.port}/api/chat",
    ]  # fmt: skip
    cpu_before_s = target.child.cpu_s()
    output = bench.children.start("wrk", command, bench.layout.load).output(seconds + 20)
    cpu_s = target.child.cpu_s() - cpu_before_s
    report = json.loads(output.rpartition(b"RESULT ")[2])
    if report["errors"]:
        raise ChildFailed(f"{report['errors']} requests through {target.name} failed")
    return ShortRun(
        requests_per_s=report["requests"] / report["duration_us"] * 1e6,
        p50_s=report["p50_us"] / 1e6,
        p99_s=report["p99_us"] / 1e6,
        cpu_s=cpu_s / report["requests"],
    )
