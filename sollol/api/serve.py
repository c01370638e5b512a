"""``sollol serve``: from settings to a running process and back out of it."""

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable

import structlog
import uvloop

from sollol import logs
from sollol.api.app import App
from sollol.api.server import GatewayServer, bind
from sollol.gateway.gateway import Gateway
from sollol.settings import Settings, SettingsError

log = structlog.get_logger()

EXIT_OK = 0
EXIT_FAILED = 1

OWN_FILES = 128
"""File descriptors for all but requests: listeners, idle connections to nodes, bodies in files."""


Reread = Callable[[], Settings]
"""Reads the settings again, from where they came; raises SettingsError. Blocks."""


def run(settings: Settings, reread: Reread) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code.

    The first signal lets requests in progress finish (``server.shutdown_grace_s``); a second one
    cancels them. SIGHUP reads the settings again; from a terminal that is gone it is an end.
    """
    logs.configure(settings.log.level, settings.log.format)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # our own events say the same
    try:
        listeners = bind(settings.server.host, settings.server.port)
    except OSError as error:
        _explain_bind(settings, error)
        return EXIT_FAILED
    files = _raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listeners, reread, files))
    return EXIT_OK


async def _serve(
    settings: Settings, listeners: list[socket.socket], reread: Reread, files: int
) -> None:
    gateway = Gateway(settings)
    most = _connections_for(files, settings.server.max_connections)
    server = GatewayServer(App(gateway), settings.server, most)

    def stop() -> None:
        log.info("stopping", in_flight=gateway.admission.statistics().total_in_flight)
        gateway.stop()
        server.stop()

    has_terminal = os.isatty(0)
    reload_asked = asyncio.Event()

    def hang_up() -> None:
        if has_terminal and not os.isatty(0):
            stop()
        else:
            reload_asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    host, port = listeners[0].getsockname()[:2]
    log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
    async with gateway.running():
        _calm_garbage_collector()
        reloading = asyncio.create_task(_reload_when(reload_asked, gateway, reread))
        try:
            await server.serve(sockets=listeners)
        finally:
            reloading.cancel()
            await asyncio.wait([reloading])
    log.info("stopped")


async def _reload_when(asked: asyncio.Event, gateway: Gateway, reread: Reread) -> None:
    """Take over the settings each time it is asked for; unusable ones change nothing."""
    while True:
        await asked.wait()
        asked.clear()
        try:
            settings = await asyncio.to_thread(reread)
        except SettingsError as error:
            for line in error.lines:
                log.error("settings_invalid", reason=line)
            continue
        gateway.reload(settings)


def _calm_garbage_collector() -> None:
    """Leave what is here out of every collection, and collect less often.

    Requests make next to no cycles; a full collection stops all streams for up to 0.1 s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _raise_file_limit() -> int:
    """Take all the file descriptors we may have, and return how many: each request needs two."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def _connections_for(files: int, wanted: int) -> int:
    """Return how many client connections there may be: no more than descriptors are enough for."""
    enough = max(1, (files - OWN_FILES) // 2)
    if files == resource.RLIM_INFINITY:
        return wanted
    if enough < wanted:
        log.warning("few_file_descriptors", limit=files, max_connections=enough)
    return min(enough, wanted)


def _explain_bind(settings: Settings, error: OSError) -> None:
    address = f"{settings.server.host} port {settings.server.port}"
    is_taken = error.errno == errno.EADDRINUSE
    hint = "Is a gateway running already? `--port` takes another port." if is_taken else ""
    sys.stderr.write(
        f"cannot listen on {address}: {error.strerror or error}\n"
        f"{hint or 'Check server.host: it must be an address of this machine.'}\n"
    )
