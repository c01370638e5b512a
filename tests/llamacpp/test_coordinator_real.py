"""The coordinator with real llama.cpp programs: the same answers, its proof, its ends."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sollol.bench.gguf_files import GgufSpec, write_gguf
from sollol.bench.model_kinds import KINDS, dense
from sollol.bench.sharding_memory import running_worker
from sollol.errors import CoordinatorFailed
from sollol.gateway.shard_watch import LoadLimits, start_watched
from sollol.llamacpp.binaries import LlamaBinaries, find_binaries
from sollol.llamacpp.process import ChildProcess
from sollol.llamacpp.server import LlamaServer
from sollol.llamacpp.small_model import MODEL_PACKAGE
from sollol.sharding.command import Launch, server_arguments
from sollol.sharding.coordinator import CoordinatorProcess
from sollol.sharding.loading import LoadProgress
from sollol.sharding.memory import RunOptions
from sollol.sharding.models import LocalModel, read_model
from sollol.sharding.plan import Plan
from sollol.sharding.template import BUILT_IN
from tests.llamacpp.shards import (
    DEADLINE_S,
    NEEDS_WORKERS,
    fake_worker,
    hang_up,
    llama_processes,
    made_model,
    plan_over,
    real_model_file,
    relayed_to,
    rpc_answers,
    silent,
)
from tests.shards import Store

pytestmark = NEEDS_WORKERS
needs_real_model = pytest.mark.skipif(
    find_spec(MODEL_PACKAGE) is None, reason=f"not installed: {MODEL_PACKAGE}"
)
PROMPT = "The capital of France is"
PARAMETERS = {
    "temperature": 0.25,
    "top_k": 7,
    "stop": ["-m", "\\n<end>"],
    "num_ctx": 99,
    "seed": "--help",
}
TEMPLATE = "{{ range .Messages }}<start_of_turn>{{ .Role }}\n{{ .Content }}<end_of_turn>\n{{ end }}"


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    yield
    assert llama_processes() == []


@pytest.fixture
def binaries() -> LlamaBinaries:
    return find_binaries()


@pytest.fixture
def tiny(tmp_path: Path) -> LocalModel:
    return made_model(tmp_path / "tiny.gguf", dense())


def coordinator(
    binaries: LlamaBinaries,
    plan: Plan,
    model: LocalModel,
    name: str = "m",
    on_progress: Callable[[LoadProgress], None] | None = None,
) -> CoordinatorProcess:
    return CoordinatorProcess(binaries, plan, model, name=name, threads=1, on_progress=on_progress)


@asynccontextmanager
async def running(process: CoordinatorProcess) -> AsyncIterator[httpx.AsyncClient]:
    """Start a coordinator, yield a client of it, and stop it."""
    await process.start(DEADLINE_S)
    try:
        async with client_of(process) as client:
            yield client
    finally:
        await process.stop()


def client_of(server: CoordinatorProcess | LlamaServer) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, timeout=DEADLINE_S)


@asynccontextmanager
async def two_workers(binaries: LlamaBinaries) -> AsyncIterator[list[str]]:
    async with running_worker(binaries) as one, running_worker(binaries) as other:
        yield [one, other]


def process_at(address: str) -> psutil.Process:
    """Return the worker that listens there."""
    port = address.rpartition(":")[2]
    for child in psutil.Process().children(recursive=True):
        words = child.cmdline()
        if "rpc-server" in words[0] and words[words.index("-p") + 1] == port:
            return child
    raise AssertionError(f"no worker listens at {address}")


async def greedy(client: httpx.AsyncClient) -> str:
    asked = {"prompt": PROMPT, "n_predict": 8, "temperature": 0, "ignore_eos": True}
    response = await client.post("/completion", json=asked)
    assert response.status_code == 200, response.text
    text: str = response.json()["content"]
    return text


# -- what works -----------------------------------------------------------------------------------


@needs_real_model
async def test_two_workers_say_the_same_as_one_machine(
    binaries: LlamaBinaries, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store, of Ollama")
    store.add("small", real_model_file(), params=json.dumps(PARAMETERS), template=TEMPLATE)
    model = read_model("small", [store.root])
    expected = await said_alone(binaries, model)
    seen: list[LoadProgress] = []
    async with two_workers(binaries) as workers:
        plan = plan_over(model, workers)
        process = coordinator(binaries, plan, model, name="--small:1", on_progress=seen.append)
        async with running(process) as client:
            assert await greedy(client) == expected
            await check_interface(client)
        for share in plan.shares:
            placed_mib = process.placement[share.worker.name].weight_mib
            assert placed_mib == pytest.approx(share.memory.weight_bytes / 2**20, abs=0.01)
    check_progress(seen)


async def said_alone(binaries: LlamaBinaries, model: LocalModel) -> str:
    """Return what a single process says; workers compute with weights as they are in the file."""
    launch = Launch("m", Path("/"), 1, {})
    arguments = server_arguments(plan_over(model, []), model, launch)
    server = LlamaServer(binaries, [*arguments, "--no-repack"])
    await server.start(DEADLINE_S)
    try:
        async with client_of(server) as client:
            return await greedy(client)
    finally:
        await server.stop()


async def check_interface(client: httpx.AsyncClient) -> None:
    [told] = (await client.get("/v1/models")).json()["data"]
    assert told["id"] == "--small:1"
    props = (await client.get("/props")).json()
    defaults = props["default_generation_settings"]["params"]
    assert (round(defaults["temperature"], 2), defaults["top_k"]) == (0.25, 7)
    assert props["default_generation_settings"]["n_ctx"] == 512
    messages = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    chat = await client.post("/v1/chat/completions", json=messages)
    assert chat.status_code == 200, chat.text
    prompt = (await client.post("/apply-template", json=messages)).json()["prompt"]
    assert prompt.startswith("<start_of_turn>user")
    embedded = await client.post("/v1/embeddings", json={"input": "cat"})
    assert len(embedded.json()["data"][0]["embedding"]) == 640


def check_progress(seen: Sequence[LoadProgress]) -> None:
    shares = [one.share for one in seen]
    assert shares == sorted(shares)
    assert len(shares) >= 2
    assert seen[-1] == LoadProgress(1.0, 0.0)
    assert all(one.eta_s is None or one.eta_s >= 0 for one in seen)


@pytest.mark.parametrize(
    "options", [RunOptions(300, 3, "q8_0", "q4_0"), RunOptions(256, 1, "q5_1")]
)
async def test_caches_of_few_bits_and_several_slots(
    binaries: LlamaBinaries, tiny: LocalModel, options: RunOptions
) -> None:
    async with two_workers(binaries) as workers:
        process = coordinator(binaries, plan_over(tiny, workers, options), tiny)
        async with running(process) as client:
            await greedy(client)
            props = (await client.get("/props")).json()
    assert props["total_slots"] == options.slots
    assert props["default_generation_settings"]["n_ctx"] >= options.context_length


async def test_a_model_in_parts_that_are_blobs(binaries: LlamaBinaries, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.add("split", *reversed(parts_of(dense(), tmp_path)))
    model = read_model("split", [store.root])
    async with two_workers(binaries) as workers:
        async with running(coordinator(binaries, plan_over(model, workers), model)) as client:
            await greedy(client)


def parts_of(spec: GgufSpec, directory: Path) -> list[Path]:
    """Write a model as two files, as llama.cpp splits it."""
    half = len(spec.tensors) // 2
    count: dict[str, Any] = {"split.count": 2, "split.tensors.count": len(spec.tensors)}
    first = GgufSpec({**spec.fields, "split.no": 0, **count}, spec.tensors[:half], spec.texts)
    second = GgufSpec({"split.no": 1, **count}, spec.tensors[half:], {})
    return [
        write_gguf(directory / "one.gguf", first),
        write_gguf(directory / "two.gguf", second),
    ]


@pytest.mark.parametrize("kind", ["experts", "sliding_window", "latent_attention"])
async def test_other_kinds_of_models_run(
    binaries: LlamaBinaries, tmp_path: Path, kind: str
) -> None:
    model = made_model(tmp_path / "m.gguf", KINDS[kind]())
    async with two_workers(binaries) as workers:
        async with running(coordinator(binaries, plan_over(model, workers), model)) as client:
            await greedy(client)


async def test_layers_may_stay_with_the_coordinator(
    binaries: LlamaBinaries, tiny: LocalModel
) -> None:
    async with running_worker(binaries) as worker:
        whole = plan_over(tiny, [worker])
        plan = replace(whole, cpu_layers=4, shares=(replace(whole.shares[0], first=4),))
        process = coordinator(binaries, plan, tiny)
        async with running(process) as client:
            await greedy(client)
    assert process.placement["CPU"].weight_mib > process.placement[worker].weight_mib / 2


async def test_after_a_stop_the_workers_are_free(binaries: LlamaBinaries, tiny: LocalModel) -> None:
    async with two_workers(binaries) as workers:
        plan = plan_over(tiny, workers)
        for _ in range(3):
            process = coordinator(binaries, plan, tiny)
            await process.start(DEADLINE_S)
            await process.stop()
            assert "exit code 0" in await process.wait()


async def test_every_template_that_is_chosen_is_built_in(binaries: LlamaBinaries) -> None:
    lines: list[str] = []
    program = [str(binaries.server), "--help"]
    child = await ChildProcess.start(program, env=binaries.environment, on_line=lines.append)
    await child.wait()
    words = " ".join(lines).replace(",", " ").split()
    assert [name for name in BUILT_IN if name not in words] == []


# -- workers that are lost ------------------------------------------------------------------------


async def test_a_worker_killed_while_it_works_is_named(
    binaries: LlamaBinaries, tiny: LocalModel
) -> None:
    async with two_workers(binaries) as workers:
        process = coordinator(binaries, plan_over(tiny, workers), tiny)
        async with running(process) as client:
            asked = {"prompt": "a", "n_predict": -1, "stream": True, "ignore_eos": True}
            with pytest.raises(httpx.RemoteProtocolError):
                async with client.stream("POST", "/completion", json=asked) as response:
                    async for number, _ in aenumerate(response.aiter_lines()):
                        if number == 5:
                            process_at(workers[1]).kill()
            async with asyncio.timeout(DEADLINE_S):
                assert await process.wait() == f"worker {workers[1]} was lost"


async def aenumerate(lines: AsyncIterator[str]) -> AsyncIterator[tuple[int, str]]:
    number = 0
    async for line in lines:
        yield number, line
        number += 1


async def test_a_worker_killed_while_idle_is_named_at_the_next_request(
    binaries: LlamaBinaries, tiny: LocalModel
) -> None:
    async with two_workers(binaries) as workers:
        process = coordinator(binaries, plan_over(tiny, workers), tiny)
        async with running(process) as client:
            process_at(workers[0]).kill()
            with pytest.raises(httpx.TransportError):
                await greedy(client)
            assert await process.wait() == f"worker {workers[0]} was lost"


async def test_a_coordinator_that_is_killed_says_so(
    binaries: LlamaBinaries, tiny: LocalModel
) -> None:
    async with running_worker(binaries) as worker:
        process = coordinator(binaries, plan_over(tiny, [worker]), tiny)
        async with running(process):
            assert process.pid is not None
            psutil.Process(process.pid).send_signal(signal.SIGKILL)
            assert "ended by signal 9" in await process.wait()


# -- workers that cannot be used ------------------------------------------------------------------


async def fails(process: CoordinatorProcess, timeout_s: float = DEADLINE_S) -> str:
    with pytest.raises(CoordinatorFailed) as caught:
        await process.start(timeout_s)
    assert llama_processes() == [] or process.pid not in psutil.pids()
    return str(caught.value)


async def test_a_worker_that_is_gone_before_the_start(
    binaries: LlamaBinaries, tiny: LocalModel
) -> None:
    async with running_worker(binaries) as one:
        async with running_worker(binaries) as other:
            plan = plan_over(tiny, [one, other])
        told = await fails(coordinator(binaries, plan, tiny))
    assert other in told
    assert one not in told


@pytest.mark.parametrize("position", [0, 1])
async def test_a_worker_that_goes_between_probe_and_start(
    binaries: LlamaBinaries, tiny: LocalModel, position: int
) -> None:
    """Old builds of llama.cpp go on without it; it must not count as started."""
    async with AsyncExitStack() as stack:
        real = [await stack.enter_async_context(running_worker(binaries)) for _ in range(2)]
        leaving = fake_worker(relayed_to(real[position]), is_closing=True)
        workers = list(real)
        workers[position] = await stack.enter_async_context(leaving)
        told = await fails(coordinator(binaries, plan_over(tiny, workers), tiny))
        assert workers[position] in told
        assert workers[1 - position] not in told


async def test_a_worker_alone_that_goes_between_probe_and_start(
    binaries: LlamaBinaries, tiny: LocalModel
) -> None:
    async with running_worker(binaries) as real:
        async with fake_worker(relayed_to(real), is_closing=True) as leaving:
            assert leaving in await fails(coordinator(binaries, plan_over(tiny, [leaving]), tiny))


async def test_a_worker_of_another_version_alone(binaries: LlamaBinaries, tiny: LocalModel) -> None:
    """The probe cannot know the coordinator's version; llama-server does, and old ones go on."""
    async with fake_worker(rpc_answers((9, 0, 0))) as other:
        told = await fails(coordinator(binaries, plan_over(tiny, [other]), tiny))
    assert "version mismatch: 9.0.0" in told
    assert "Install the same llama.cpp on all machines" in told


async def test_a_worker_of_another_version_beside_a_good_one(
    binaries: LlamaBinaries, tiny: LocalModel
) -> None:
    async with running_worker(binaries) as good, fake_worker(rpc_answers((9, 0, 0))) as other:
        told = await fails(coordinator(binaries, plan_over(tiny, [good, other]), tiny))
    assert "it speaks version" in told
    assert "install the same llama.cpp on all machines" in told


async def test_a_worker_that_refuses_version_and_then_answers_another(
    binaries: LlamaBinaries, tiny: LocalModel
) -> None:
    """It is exchanged for one of another version after the probe."""
    async with running_worker(binaries) as real:
        async with fake_worker(relayed_to(real), rpc_answers((9, 0, 0))) as changing:
            told = await fails(coordinator(binaries, plan_over(tiny, [changing]), tiny))
    # Its log may end before the reason: then there is what came of it.
    assert "version mismatch" in told or "invalid device: RPC0" in told
    assert changing in told


async def test_a_worker_that_accepts_and_never_answers(
    binaries: LlamaBinaries, tiny: LocalModel
) -> None:
    async with fake_worker(silent) as frozen:
        told = await fails(coordinator(binaries, plan_over(tiny, [frozen]), tiny))
    assert f"{frozen} did not answer within 2 s" in told


async def test_a_worker_that_freezes_after_the_probe(
    binaries: LlamaBinaries, tiny: LocalModel
) -> None:
    """llama-server waits for ever, and does not even listen."""
    async with running_worker(binaries) as real:
        async with fake_worker(relayed_to(real), silent) as frozen:
            process = coordinator(binaries, plan_over(tiny, [frozen]), tiny)
            told = await fails(process, timeout_s=1.5)
    assert told.startswith(f"worker {frozen} was lost: llama-server was not ready within 1.5 s")


async def test_a_worker_that_another_coordinator_uses(
    binaries: LlamaBinaries, tiny: LocalModel
) -> None:
    async with running_worker(binaries) as worker:
        plan = plan_over(tiny, [worker])
        async with running(coordinator(binaries, plan, tiny)) as client:
            told = await fails(coordinator(binaries, plan, tiny))
            await greedy(client)
    assert "another coordinator uses" in told


@pytest.mark.parametrize("handler", [hang_up, rpc_answers((4, 0, 3))])
async def test_what_is_no_whole_worker(
    binaries: LlamaBinaries, tiny: LocalModel, handler: Any
) -> None:
    """It hangs up, or does so after what a probe asks."""
    async with fake_worker(handler) as worker:
        assert worker in await fails(coordinator(binaries, plan_over(tiny, [worker]), tiny))


async def test_a_worker_with_too_little_memory(
    binaries: LlamaBinaries, tiny: LocalModel, tmp_path: Path
) -> None:
    assert binaries.rpc_server is not None
    small = tmp_path / "ggml-rpc-server"
    small.write_text(f'#!/bin/sh\nulimit -v 60000\nexec {binaries.rpc_server} "$@"\n')
    small.chmod(0o755)
    async with running_worker(replace(binaries, rpc_server=small)) as worker:
        told = await fails(coordinator(binaries, plan_over(tiny, [worker]), tiny))
    # Its log may end before the reason.
    assert "memory" in told or "llama-server ended with exit code 1" in told


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
async def test_a_worker_that_another_takes_at_the_same_moment(
    binaries: LlamaBinaries, tiny: LocalModel
) -> None:
    limits = LoadLimits(DEADLINE_S, DEADLINE_S, 0.5, look_s=0.1)
    async with running_worker(binaries) as real:
        async with fake_worker(relayed_to(real), silent) as taken:  # it answers the probe only
            process = coordinator(binaries, plan_over(tiny, [taken]), tiny)
            assert not process.is_sending
            with pytest.raises(CoordinatorFailed, match=f"Worker {taken} let nobody in for"):
                await start_watched(process, {taken: taken}, limits, time.monotonic)
        process = coordinator(binaries, plan_over(tiny, [real]), tiny)
        await start_watched(process, {real: real}, limits, time.monotonic)
        assert process.is_sending
        await process.stop()


# -- models and programs that cannot be used --------------------------------------------------


async def failing_model(binaries: LlamaBinaries, model: LocalModel) -> str:
    async with running_worker(binaries) as worker:
        return await fails(coordinator(binaries, plan_over(model, [worker]), model))


async def test_a_file_that_is_gone(binaries: LlamaBinaries, tiny: LocalModel) -> None:
    tiny.stored.parts[0].unlink()
    told = await failing_model(binaries, tiny)
    assert told.startswith(
        "A file of it was deleted meanwhile: pull the model again. (failed to open"
    )


# -- ends while it starts -------------------------------------------------------------------------


@pytest.mark.parametrize("is_stopped", [True, False])
async def test_a_start_that_is_given_up_leaves_nothing(
    binaries: LlamaBinaries, tiny: LocalModel, is_stopped: bool
) -> None:
    async with running_worker(binaries) as real:
        async with fake_worker(relayed_to(real), silent) as frozen:
            process = coordinator(binaries, plan_over(tiny, [frozen]), tiny)
            starting = asyncio.create_task(process.start(DEADLINE_S))
            async with asyncio.timeout(DEADLINE_S):
                while process.pid is None:  # noqa: ASYNC110 - a process sends no event
                    await asyncio.sleep(0.01)
            if is_stopped:
                await process.stop()
            else:
                starting.cancel()
            with pytest.raises(CoordinatorFailed if is_stopped else asyncio.CancelledError):
                await starting
            assert not psutil.pid_exists(process.pid)
