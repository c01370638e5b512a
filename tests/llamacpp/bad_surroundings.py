"""What can be wrong around a good model: its workers, their memory, llama.cpp, directories, ports."""

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sollol.bench.sharding_memory import running_worker
from sollol.llamacpp.binaries import find_binaries
from sollol.ports import HOST, free_port
from tests.llamacpp.shards import Handler, fake_worker, hang_up, rpc_answers, silent
from tests.shards import Store

Changes = dict[str, Any]
"""Settings of sharding that differ from those that work."""
Around = Callable[[Store, Path], AbstractAsyncContextManager[Changes]]


@dataclass(frozen=True)
class BadSurroundings:
    """Something around a good model; what is to be answered.

    ``says``: what the answer has besides the name of the model: what is wrong, and what to do;
    ``{worker}`` stands for the address of the first worker. ``around`` is there before the gateway
    starts, ``meanwhile`` only while it is asked.
    """

    name: str
    status: int
    says: tuple[str, ...]
    around: Around
    meanwhile: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext


def _worker(address: str, memory_gb: float = 1) -> Changes:
    return {"workers": [f"{address}={memory_gb}"]}


# -- workers --------------------------------------------------------------------------------------


@asynccontextmanager
async def unreachable(_: Store, __: Path) -> AsyncIterator[Changes]:
    """Three workers, and nobody is there."""
    yield {"workers": [f"{HOST}:{free_port()}=1" for _ in range(3)]}


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as a web server does."""
    await reader.read(64)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await writer.drain()


def pretending(*handlers: Handler) -> Around:
    """A worker that behaves so."""

    @asynccontextmanager
    async def around(_: Store, __: Path) -> AsyncIterator[Changes]:
        async with fake_worker(*handlers) as address:
            yield _worker(address)

    return around


@asynccontextmanager
async def busy(store: Store, directory: Path) -> AsyncIterator[Changes]:
    """A real worker that talks to somebody else."""
    async with running_worker(find_binaries()) as address:
        host, _, port = address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        yield _worker(address)
        writer.close()


def real(worker_gb: float = 1, **changes: Any) -> Around:
    """A real worker, and these settings."""

    @asynccontextmanager
    async def around(_: Store, __: Path) -> AsyncIterator[Changes]:
        async with running_worker(find_binaries()) as address:
            yield _worker(address, worker_gb) | changes

    return around


# -- llama.cpp ------------------------------------------------------------------------------------


def program(text: str | None, mode: int = 0o755, **changes: Any) -> Around:
    """A script in place of llama-server, or no file there; and these settings."""

    @asynccontextmanager
    async def around(_: Store, directory: Path) -> AsyncIterator[Changes]:
        path = directory / "llama-server"
        if text is not None:
            path.write_text(text)
            path.chmod(mode)
        async with running_worker(find_binaries()) as address:
            yield _worker(address) | {"binary": path, **changes}

    return around


_TELLING = """#!{python} -ISs
import os, socket, sys
with socket.create_connection(("{host}", {port})) as told:
    told.sendall(sys.argv[sys.argv.index("--port") + 1].encode() + b"\\n")
    told.recv(1)
os.execv("{server}", ["{server}", *sys.argv[1:]])
"""


@asynccontextmanager
async def ports_taken(store: Store, directory: Path) -> AsyncIterator[Changes]:
    """Another program binds each port before llama-server does."""
    with contextlib.ExitStack() as taken:

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            listener = taken.enter_context(socket.socket())
            listener.bind((HOST, int(await reader.readline())))
            writer.close()

        server = await asyncio.start_server(take, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        real = find_binaries().server
        text = _TELLING.format(python=sys.executable, host=HOST, port=port, server=real)
        async with server, program(text)(store, directory) as changes:
            yield changes


# -- directories ----------------------------------------------------------------------------------


@asynccontextmanager
async def store_missing(_: Store, directory: Path) -> AsyncIterator[Changes]:
    """The store is elsewhere."""
    async with running_worker(find_binaries()) as address:
        yield _worker(address) | {"store": directory / "nothing-here"}


@asynccontextmanager
async def store_of_another_user(store: Store, _: Path) -> AsyncIterator[Changes]:
    """This user may not read it."""
    async with running_worker(find_binaries()) as address:
        mode = store.root.stat().st_mode
        store.root.chmod(0)
        try:
            yield _worker(address)
        finally:
            store.root.chmod(mode)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Lose what root may do, to whom no file is unreadable."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@asynccontextmanager
async def no_temporary_files(_: Store, directory: Path) -> AsyncIterator[Changes]:
    """The directory for temporary files is gone."""
    usual, tempfile.tempdir = tempfile.tempdir, str(directory / "nothing-here")
    try:
        async with running_worker(find_binaries()) as address:
            yield _worker(address)
    finally:
        tempfile.tempdir = usual


# -- the table ------------------------------------------------------------------------------------

WAITING = "#!/bin/sh\necho waiting; exec sleep 60\n"
TOO_OLD = "#!/bin/sh\necho 'error: invalid argument: --rpc' >&2; exit 1\n"
CAT = '#!/bin/sh\nexec cat "$@"\n'
ILLEGAL = "#!/bin/sh\nkill -ILL $$\n"
OTHER = rpc_answers((9, 0, 0))
GREEDY = rpc_answers((4, 0, 3), devices=1 << 20)
WORKERS = "sollol shard workers"
WORKS = "See whether it works: "


def no_worker(name: str, what: str, around: Around) -> BadSurroundings:
    """The only worker cannot be used."""
    return BadSurroundings(name, 502, (what, "{worker}", WORKERS), around)


def no_program(name: str, what: str, advice: str, around: Around) -> BadSurroundings:
    """What is to be run as llama-server is none."""
    return BadSurroundings(name, 502, (what, advice), around)


BAD_SURROUNDINGS = (
    no_worker("workers-unreachable", "Connection refused", unreachable),
    no_worker("worker-speaks-http", "does not answer as an RPC server", pretending(http)),
    no_worker("worker-of-another-version", "install the same llama.cpp", pretending(OTHER)),
    no_worker("worker-never-answers", "did not answer within 2 s", pretending(silent)),
    no_worker("worker-hangs-up", "no RPC server answers", pretending(hang_up)),
    no_worker("worker-with-a-million-devices", "claims 1048576 devices", pretending(GREEDY)),
    no_worker("worker-is-busy", "another coordinator uses", busy),
    BadSurroundings(
        "worker-takes-no-layers",
        502,
        ("worker {worker} failed", "Look at the log of the workers"),
        pretending(rpc_answers((4, 0, 3))),
    ),
    BadSurroundings(
        "no-memory-there", 503, ("may take 1.07 MB", "list another worker"), real(0.001)
    ),
    BadSurroundings(
        "no-memory-here",
        503,
        ("which has 1.07 MB for it", "Give it more with sharding.memory_gb"),
        real(memory_gb=0.001),
    ),
    BadSurroundings(
        "context-too-large",
        503,
        ("1 x 1073741824 tokens", "ask for less context"),
        real(context_length=1 << 30),
    ),
    BadSurroundings(
        "cache-type-too-coarse", 400, ("stored as q4_0", "use f16"), real(cache_type="q4_0")
    ),
    BadSurroundings(
        "ports-taken", 502, ("couldn't bind HTTP server socket", "ask again"), ports_taken
    ),
    no_program(
        "llama-server-missing",
        "there is no llama-server at",
        "change or unset sharding.binary",
        program(None),
    ),
    no_program(
        "llama-server-not-executable",
        "Permission denied",
        "Let the user that runs SOLLOL",
        program(CAT, 0o644),
    ),
    no_program(
        "llama-server-is-no-program",
        "Exec format error",
        "Install llama.cpp again",
        program("\0\0\0"),
    ),
    no_program("llama-server-ends-at-once", "exit code 3", WORKS, program("#!/bin/sh\nexit 3\n")),
    no_program("llama-server-is-killed", "signal 9", WORKS, program("#!/bin/sh\nkill -9 $$\n")),
    no_program("llama-server-is-cat", "exit code 1 (Try 'cat --help'", WORKS, program(CAT)),
    no_program("llama-server-too-old", "--rpc", "too old or too new", program(TOO_OLD)),
    no_program("llama-server-of-another-cpu", "needs AVX2", WORKS, program(ILLEGAL)),
    no_program(
        "llama-server-never-answers",
        "was not ready within 0.5 s",
        "sharding.load_timeout_s",
        program(WAITING, load_timeout_s=0.5),
    ),
    BadSurroundings("store-missing", 404, ("model 'good' not found",), store_missing),
    BadSurroundings(
        "store-of-another-user",
        500,
        ("may not be read by this user", "Run SOLLOL as a user who may"),
        store_of_another_user,
        as_nobody,
    ),
    BadSurroundings(
        "no-temporary-files", 502, ("could not be started", "TMPDIR"), no_temporary_files
    ),
)
