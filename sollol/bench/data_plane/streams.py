"""Many streams at once: what a chunk costs, how late it leaves, and what is left of it all."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence

from sollol.bench.common.children import Child, ChildFailed
from sollol.bench.data_plane.proxies import Bench, Target, get_json
from sollol.bench.data_plane.results import HTTPX, Leaving, StreamLoad, StreamRun
from sollol.bench.data_plane.stream_node import ACTIVE_PATH

FAST, SLOW = 30, 5
STREAMS_100 = StreamLoad(100, FAST)
STREAMS_500 = StreamLoad(500, FAST)
STREAMS_1000 = StreamLoad(1000, FAST)
STREAMS_500_SLOW = StreamLoad(500, SLOW)
STARTS_PER_S = 500
_SAMPLE_S = 0.2
_LEAVING_STREAMS = 500
_LEAVING_TIMEOUT_S = 10.0


def measure_streams(
    bench: Bench,
    node: Target,
    targets: Sequence[Target],
    loads: Sequence[StreamLoad],
    *,
    rounds: int,
    seconds: int,
) -> dict[tuple[str, StreamLoad], list[StreamRun]]:
    """Measure each target under each load once a round, in turn.

    The httpx proxy gets the smallest load only: with more it is still busy long after the others.

    Raises:
        ChildFailed: an answer was not a stream.
    """
    runs: dict[tuple[str, StreamLoad], list[StreamRun]] = {}
    for _ in range(rounds):
        for load in loads:
            for target in targets:
                if target.name == HTTPX and load != loads[0]:
                    continue
                run = _run(bench, node, target, load, seconds)
                runs.setdefault((target.name, load), []).append(run)
    return runs


def _run(bench: Bench, node: Target, target: Target, load: StreamLoad, seconds: int) -> StreamRun:
    node_before_s, proxy_before_s = node.child.cpu_s(), target.child.cpu_s()
    began = time.monotonic()
    client = _start(bench, target, load, seconds)
    peak_rss_bytes = _watch_memory(client, target.child)
    wall_s = time.monotonic() - began
    report = json.loads(client.output(1.0))
    load_s = report["cpu_s"] + node.child.cpu_s() - node_before_s
    return StreamRun(
        finished_ratio=report["finished"] / load.streams,
        first_p50_s=report["first_s"][0],
        first_p99_s=report["first_s"][1],
        delay_p50_s=report["delay_s"][0],
        delay_p99_s=report["delay_s"][1],
        cpu_s=(target.child.cpu_s() - proxy_before_s) / max(1, report["chunks"]),
        load_ratio=load_s / wall_s,
        peak_rss_bytes=peak_rss_bytes,
    )


def _start(bench: Bench, target: Target, load: StreamLoad, seconds: int) -> Child:
    return bench.start_client(
        "stream_client",
        "--port", str(target.port),
        "--streams", str(load.streams),
        "--chunks", str(load.chunks_per_s * seconds),
        "--chunks-per-s", str(load.chunks_per_s),
        "--starts-per-s", str(STARTS_PER_S),
        "--timeout-s", str(seconds + 15),
    )  # fmt: skip


def _watch_memory(client: Child, proxy: Child) -> int:
    """Return the most memory the proxy had until the client ended."""
    peak_bytes = proxy.rss_bytes()
    while True:
        try:
            client.process.wait(_SAMPLE_S)
        except subprocess.TimeoutExpired:
            peak_bytes = max(peak_bytes, proxy.rss_bytes())
            continue
        return peak_bytes


def measure_leaving(bench: Bench, node: Target, sollol: Target) -> Leaving:
    """Kill all clients in the middle of their streams and wait until nobody works for them.

    Raises:
        ChildFailed: the streams did not start, or something was left of them.
    """
    load = StreamLoad(_LEAVING_STREAMS, SLOW)
    client = _start(bench, sollol, load, seconds=60)
    _wait(lambda: _in_flight(sollol) == load.streams, "the streams did not start")
    client.process.kill()
    killed = time.monotonic()
    _wait(lambda: _in_flight(sollol) == 0, "requests are in flight without a client")
    in_flight_zero_s = time.monotonic() - killed
    _wait(lambda: get_json(node.port, ACTIVE_PATH)[1] == 0, "the node works without a client")
    return Leaving(load.streams, in_flight_zero_s, time.monotonic() - killed)


def _in_flight(sollol: Target) -> int:
    _, answer = get_json(sollol.port, "/sollol/v1/nodes")
    return sum(int(node["in_flight"]) for node in answer["nodes"])


def _wait(condition: Callable[[], bool], text: str) -> None:
    end = time.monotonic() + _LEAVING_TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            raise ChildFailed(f"{text}, after {_LEAVING_TIMEOUT_S:g} s")
        time.sleep(0.005)
