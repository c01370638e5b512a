"""``python -m sollol.bench.live.nodes FILE``: the simulated nodes that a file describes."""

import asyncio
import sys
from pathlib import Path

import msgspec
import uvloop

from sollol.bench.sim.command import run_nodes
from sollol.bench.sim.config import SimConfig


def main() -> None:
    """Run them until killed."""
    configs = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=list[SimConfig])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_nodes(configs))


if __name__ == "__main__":
    main()
