"""``sollol serve``: from settings to a running process and back out of it."""

import asyncio
import errno
import gc
import logging
import resource
import signal
import socket
import sys

import structlog
import uvloop

from sollol import logs
from sollol.api.app import App
from sollol.api.server import GatewayServer, bind
from sollol.gateway.gateway import Gateway
from sollol.settings import Settings

log = structlog.get_logger()

EXIT_OK = 0
EXIT_FAILED = 1


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code.

    The first signal lets requests in progress finish (``server.shutdown_grace_s``); a second one
    cancels them.
    """
    logs.configure(settings.log.level, settings.log.format)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # our own events say the same
    try:
        listeners = bind(settings.server.host, settings.server.port)
    except OSError as error:
        _explain_bind(settings, error)
        return EXIT_FAILED
    _raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listeners))
    return EXIT_OK


async def _serve(settings: Settings, listeners: list[socket.socket]) -> None:
    gateway = Gateway(settings)
    server = GatewayServer(App(gateway), settings.server)

    def stop() -> None:
        gateway.is_stopping = True
        log.info("stopping", in_flight=gateway.admission.statistics().total_in_flight)
        server.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    host, port = listeners[0].getsockname()[:2]
    log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
    async with gateway.running():
        _calm_garbage_collector()
        await server.serve(sockets=listeners)
    log.info("stopped")


def _calm_garbage_collector() -> None:
    """Leave what is here out of every collection, and collect less often.

    Requests make next to no cycles; a full collection stops all streams for up to 0.1 s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _raise_file_limit() -> None:
    """Take all the file descriptors we may have: each request needs two."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _explain_bind(settings: Settings, error: OSError) -> None:
    address = f"{settings.server.host} port {settings.server.port}"
    is_taken = error.errno == errno.EADDRINUSE
    hint = "Is a gateway running already? `--port` takes another port." if is_taken else ""
    sys.stderr.write(
        f"cannot listen on {address}: {error.strerror or error}\n"
        f"{hint or 'Check server.host: it must be an address of this machine.'}\n"
    )
