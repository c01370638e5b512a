"""The gateway that ``sollol bench`` compares policies with: ``sollol serve`` in the nodes' time.

``python -m sollol.cli.bench_gateway TIME_SCALE GROUP.NAME=VALUE...``
"""

import asyncio
import sys
from functools import partial

from sollol import logs
from sollol.api.app import App
from sollol.api.server import GatewayServer, bind
from sollol.bench.live.scaled_loop import ScaledLoop
from sollol.cli.environment import read_settings
from sollol.gateway.gateway import Gateway
from sollol.settings import Settings


async def _serve(settings: Settings) -> None:
    gateway = Gateway(settings, clock=asyncio.get_running_loop().time)
    server = GatewayServer(App(gateway), settings.server)
    listeners = bind(settings.server.host, settings.server.port)
    async with gateway.running():
        await server.serve(sockets=listeners)


def main(arguments: list[str]) -> None:
    """Serve until killed."""
    time_scale, *assignments = arguments
    settings = read_settings(None, assignments).settings
    logs.configure(settings.log.level, settings.log.format)
    with asyncio.Runner(loop_factory=partial(ScaledLoop, float(time_scale))) as runner:
        runner.run(_serve(settings))


if __name__ == "__main__":
    main(sys.argv[1:])
