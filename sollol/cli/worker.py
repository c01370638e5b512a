"""``sollol worker``: this machine holds a part of models that run over several."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sollol.cli.errors import CommandError

if TYPE_CHECKING:
    from sollol.sharding.rpc import Probe
    from sollol.sharding.worker import RpcWorker, WorkerOptions

EXAMPLES = """Examples:

  sollol worker --host 10.0.0.2

  sollol worker --host 10.0.0.2 --memory-gb 24 --threads 8"""


def worker(
    host: Annotated[
        str,
        typer.Option(
            "--host", metavar="ADDRESS", help="Private IPv4 address of this machine to listen on."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="NUMBER", min=1, max=65535, help="TCP port.")
    ] = 50052,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            "--memory-gb",
            metavar="GB",
            min=0.01,
            show_default="what is free",
            help="What the line for the gateway's settings says; it limits nothing here.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="NUMBER",
            min=1,
            show_default="half of the cores",
            help="Of the CPU.",
        ),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Do not keep weights on disk for the next load.")
    ] = False,
    binary: Annotated[
        Path | None,
        typer.Option(
            "--llama-server",
            metavar="FILE",
            show_default="that of the extra `llama`, or one on PATH",
            help="Your own llama-server, with its RPC server beside it.",
        ),
    ] = None,
) -> None:
    """Run an RPC server of llama.cpp until Ctrl-C; it is started again when it ends.

    It has no password, and whoever reaches it can run code on this machine:
    listen on an address of a private network, a VPN or an SSH tunnel.
    """
    from sollol.errors import WorkerFailed
    from sollol.llamacpp.binaries import LlamaCppUnavailable, find_binaries
    from sollol.settings.address import listening_host
    from sollol.sharding.worker import RpcWorker, WorkerOptions

    try:
        options = WorkerOptions(listening_host(host), port, threads, not no_cache)
        process = RpcWorker(
            find_binaries(binary),
            options,
            lambda told: print(_line(told, process, options, memory_gb), flush=True),
        )
    except ValueError as error:
        raise CommandError(f"--host {host}: {error}", exit_code=2) from None
    except (LlamaCppUnavailable, WorkerFailed) as error:
        raise CommandError(str(error)) from None
    raise typer.Exit(_run(process))


def _run(process: "RpcWorker") -> int:
    """Run it until a signal comes; return the exit code."""
    import asyncio
    import signal

    from sollol.errors import WorkerFailed

    async def until_signal() -> int:
        codes = {signal.SIGTERM: 0, signal.SIGINT: 130}
        received: list[int] = []
        task = asyncio.current_task()

        def end(code: int) -> None:
            received.append(code)
            if task is not None:
                task.cancel()

        for number, code in codes.items():
            asyncio.get_running_loop().add_signal_handler(number, end, code)
        with suppress(asyncio.CancelledError):
            await process.run()
        return received[0]

    try:
        return asyncio.run(until_signal())
    except WorkerFailed as error:
        raise CommandError(str(error)) from None


def _line(
    told: "Probe", process: "RpcWorker", options: "WorkerOptions", memory_gb: float | None
) -> str:
    """Return what is printed when the worker is ready: what to write into the settings."""
    from sollol.sharding.worker import offered_gb

    version = ".".join(map(str, told.version)) or "unknown"
    cache = f"weights are kept in {process.folder}"
    gb = offered_gb(told) if memory_gb is None else memory_gb
    return (
        f"ready (RPC protocol {version}; {cache if options.has_cache else 'no cache'}); "
        f"for the gateway: sharding.workers={told.address}={gb:g}"
    )
