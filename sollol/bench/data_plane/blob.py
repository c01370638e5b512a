"""A large blob: how fast it goes through, and what of it stays in memory."""

import json
import time
from collections.abc import Sequence

from sollol.bench.common.children import Child, ChildFailed
from sollol.bench.data_plane.proxies import Bench, Target
from sollol.bench.data_plane.results import BlobRun

_SAMPLE_S = 0.05
_SLOWEST_BYTES_PER_S = 20e6


def measure_blob(
    bench: Bench, targets: Sequence[Target], *, rounds: int, size_bytes: int
) -> dict[str, list[BlobRun]]:
    """Upload to each target once a round, in turn; the node hashes what it gets and drops it.

    Raises:
        ChildFailed: an upload failed.
    """
    runs: dict[str, list[BlobRun]] = {target.name: [] for target in targets}
    for number in range(rounds):
        for place, target in enumerate(targets):
            seed = number * len(targets) + place  # a node takes no blob twice
            runs[target.name].append(_run(bench, target, size_bytes, seed))
    return runs


def _run(bench: Bench, target: Target, size_bytes: int, seed: int) -> BlobRun:
    rss_bytes, cpu_s = target.child.rss_bytes(), target.child.cpu_s()
    client = bench.start_client(
        "blob_client",
        "--port", str(target.port),
        "--bytes", str(size_bytes),
        "--seed", str(seed),
    )  # fmt: skip
    peak_bytes = _peak_rss_bytes(target.child, client)
    report = json.loads(client.output(30 + size_bytes / _SLOWEST_BYTES_PER_S))
    if report["status"] != 201:
        raise ChildFailed(f"a blob through {target.name} ended with status {report['status']}")
    return BlobRun(
        size_bytes,
        report["seconds"],
        cpu_s=target.child.cpu_s() - cpu_s,
        grown_bytes=max(0, peak_bytes - rss_bytes),
    )


def _peak_rss_bytes(watched: Child, client: Child) -> int:
    """Return the most memory that ``watched`` has until ``client`` ends."""
    peak_bytes = 0
    while client.process.poll() is None:
        peak_bytes = max(peak_bytes, watched.rss_bytes())
        time.sleep(_SAMPLE_S)
    return peak_bytes
