"""Nodes that are found: by their port, by name, by announcement, by a scan; each server once."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from sollol.nodes.addresses import is_own_address, resolve
from sollol.nodes.mdns import MdnsFinder, first_usable
from sollol.types import Source
from tests.gateways import RunningGateway, make_settings, running_gateway, wait_for

pytestmark = pytest.mark.sim

MODEL = "llama3.2:3b"
OFTEN = {"interval_s": 0.05, "scan_interval_s": 0.05}


def config(number: int = 0, **values: Any) -> SimConfig:
    """Return a node of its own: real ones never got their models in the same instant."""
    installed_at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number, microseconds=number)
    return SimConfig(models=(SimModel(MODEL),), installed_at=installed_at, **values)


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """Keep a port on which nobody listens; free on the other addresses of this machine."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def ids(running: RunningGateway) -> set[str]:
    return {node.view.id for node in running.gateway.registry.nodes()}


class Names:
    """A name server that the test moves; ``rounds`` counts the questions."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: set[str] | None = set(addresses)
        self.rounds = 0

    async def look_up(self, host: str, port: int) -> frozenset[str]:
        self.rounds += 1
        if self.addresses is None:
            raise OSError("no name server answers")
        return frozenset(self.addresses)

    async def wait_rounds(self, count: int) -> None:
        aim = self.rounds + count
        await wait_for(lambda: self.rounds >= aim)


async def test_the_local_ollama_is_found_also_when_it_starts_later() -> None:
    async with SimNode(config()) as node:
        await node.stop_listening()
        discovery = {**OFTEN, "local": True, "local_url": node.url}
        async with running_gateway(discovery=discovery) as running:
            await asyncio.wait_for(running.gateway.discovery.first_round.wait(), 10)
            assert ids(running) == set()
            await node.start_listening()
            await running.wait_healthy(1)
            assert running.gateway.registry.nodes()[0].source is Source.LOCAL


async def test_a_gateway_is_not_a_node() -> None:
    seldom = {"interval_s": 600}  # its probes would be taken for tasks that the other left behind
    async with SimNode(config()) as node, running_gateway(node.url, probe=seldom) as other:
        discovery = {**OFTEN, "local": True, "local_url": other.url}
        async with running_gateway(discovery=discovery) as running:
            await asyncio.wait_for(running.gateway.discovery.first_round.wait(), 10)
            assert ids(running) == set()


async def test_each_address_of_a_name_is_a_node_for_as_long_as_the_name_has_it() -> None:
    names = Names("127.0.0.2", "127.0.0.3")
    async with SimNode(config(1, host="127.0.0.2")) as one:
        async with SimNode(config(2, host="127.0.0.3", port=one.port)) as two:
            discovery = {**OFTEN, "dns": f"gpus.internal:{one.port}", "forget_after_s": 0.01}
            async with running_gateway(
                healthy=2, look_up=names.look_up, discovery=discovery
            ) as running:
                both = {f"127.0.0.2:{one.port}", f"127.0.0.3:{two.port}"}
                assert ids(running) == both
                names.addresses = None
                await names.wait_rounds(3)
                assert ids(running) == both
                names.addresses = {"127.0.0.3"}
                await wait_for(lambda: ids(running) == {f"127.0.0.3:{two.port}"})


async def test_a_stream_ends_whole_on_a_node_that_its_name_has_lost() -> None:
    names = Names("127.0.0.2")
    slow = config(host="127.0.0.2", chunk_interval_s=0.02)
    async with SimNode(slow) as node, httpx.AsyncClient(timeout=20) as client:
        discovery = {**OFTEN, "dns": f"gpus:{node.port}"}
        async with running_gateway(
            healthy=1, look_up=names.look_up, discovery=discovery
        ) as running:
            body = {"model": MODEL, "prompt": "hi", "options": {"num_predict": 40}}
            stream = asyncio.ensure_future(client.post(f"{running.url}/api/generate", json=body))
            await wait_for(lambda: running.in_flight == 1)
            names.addresses = set()
            assert '"done":true' in (await stream).text
            await wait_for(lambda: ids(running) == set())


async def test_a_real_name_is_looked_up() -> None:
    assert "127.0.0.1" in await resolve("localhost", 80)
    with pytest.raises(OSError):  # noqa: PT011 - the system's own words
        await resolve("no-such-name.invalid", 80)
    assert is_own_address("127.0.0.1")
    assert not is_own_address("192.0.2.123")


async def test_a_scan_finds_what_listens_and_forgets_what_is_gone() -> None:
    async with contextlib.AsyncExitStack() as nodes:
        port = nodes.enter_context(held_port())
        sims = [
            await nodes.enter_async_context(SimNode(config(n, host=f"127.0.0.{n}", port=port)))
            for n in range(2, 6)
        ]
        scan = {"scan": ["127.0.0.0/29"], "scan_ports": [port], "forget_after_s": 0.2}
        discovery: dict[str, Any] = {**OFTEN, **scan}
        async with running_gateway(healthy=4, discovery=discovery) as running:
            assert ids(running) == {f"127.0.0.{n}:{port}" for n in range(2, 6)}
            assert {n.source for n in running.gateway.registry.nodes()} == {Source.SCAN}
            await sims[0].stop_listening()
            sims[0].reset_connections()
            await wait_for(lambda: len(ids(running)) == 3)
            await sims[0].start_listening()
            await wait_for(lambda: len(ids(running)) == 4)


async def test_a_listed_node_is_never_forgotten() -> None:
    async with SimNode(config()) as node:
        discovery = {**OFTEN, "forget_after_s": 0.01}
        names = Names("127.0.0.1")
        listed = f"http://gpu1:{node.port}"
        async with running_gateway(
            listed, healthy=0, look_up=names.look_up, probe={"timeout_s": 0.5}, discovery=discovery
        ) as running:
            await names.wait_rounds(5)
            assert ids(running) == {f"gpu1:{node.port}"}


async def test_a_removed_node_is_not_found_again() -> None:
    names = Names("127.0.0.1")
    async with SimNode(config()) as node, httpx.AsyncClient() as client:
        discovery = {**OFTEN, "dns": f"gpus:{node.port}"}
        async with running_gateway(
            healthy=1, look_up=names.look_up, discovery=discovery
        ) as running:
            url = f"{running.url}/sollol/v1/nodes/127.0.0.1:{node.port}"
            assert (await client.delete(url)).status_code == 200
            await names.wait_rounds(3)
            assert ids(running) == set()
            added = await client.post(f"{running.url}/sollol/v1/nodes", json={"url": node.url})
            assert added.status_code == 201


async def test_the_embedded_node_waits_for_what_is_still_looked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    may_answer = asyncio.Event()

    async def look_up(host: str, port: int) -> frozenset[str]:
        await may_answer.wait()
        return frozenset({"127.0.0.1"})

    async with SimNode(config()) as node:
        embedded = {"enabled": True, "binary": "/no/such/llama-server"}
        discovery = {**OFTEN, "dns": f"gpus:{node.port}"}
        async with running_gateway(
            healthy=0, look_up=look_up, discovery=discovery, embedded=embedded
        ) as running:
            (keeper,) = [t for t in asyncio.all_tasks() if t.get_name() == "embedded"]
            await running.gateway.prober.first_round.wait()
            may_answer.set()
            await running.wait_healthy(1)
            await wait_for(keeper.done)
    out = capsys.readouterr().out
    assert "node_found" in out
    assert "embedded_node" not in out


# --- one server, two addresses -------------------------------------------------------------------


async def test_a_found_address_of_a_listed_server_is_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = Names("127.0.0.1")
    async with SimNode(config()) as node:
        listed = f"http://localhost:{node.port}"
        discovery = {**OFTEN, "dns": f"gpus:{node.port}"}
        async with running_gateway(listed, look_up=names.look_up, discovery=discovery) as running:
            await names.wait_rounds(6)
            assert ids(running) == {f"localhost:{node.port}"}
    assert capsys.readouterr().out.count("same address and port") == 1


async def test_a_server_on_all_addresses_of_this_machine_is_found_once() -> None:
    async with SimNode(SimConfig(host="0.0.0.0")) as node:
        discovery = {**OFTEN, "scan": ["127.0.0.0/29"], "scan_ports": [node.port]}
        async with running_gateway(healthy=1, discovery=discovery) as running:
            await asyncio.wait_for(running.gateway.discovery.first_round.wait(), 10)
            assert len(ids(running)) == 1


async def test_the_instant_at_which_a_model_leaves_shows_the_same_server(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = Names("127.0.0.2")
    async with SimNode(config(host="0.0.0.0")) as node, httpx.AsyncClient() as client:
        listed = f"http://127.0.0.1:{node.port}"
        body = {"model": MODEL, "prompt": "hi", "stream": False}
        await client.post(f"{listed}/api/generate", json=body)
        discovery = {**OFTEN, "dns": f"gpus:{node.port}"}
        async with running_gateway(listed, look_up=names.look_up, discovery=discovery) as running:
            await names.wait_rounds(6)
            assert ids(running) == {f"127.0.0.1:{node.port}"}
    assert "same models in memory until the same instant" in capsys.readouterr().out


async def test_a_found_node_gives_way_when_its_server_is_listed() -> None:
    names = Names("127.0.0.1")
    async with SimNode(config()) as node:
        discovery = {**OFTEN, "dns": [f"gpus:{node.port}"]}
        async with running_gateway(
            healthy=1, look_up=names.look_up, discovery=discovery
        ) as running:
            listed = f"http://localhost:{node.port}"
            running.gateway.reload(make_settings(listed, discovery=discovery))
            await wait_for(lambda: ids(running) == {f"localhost:{node.port}"})
            await running.wait_healthy(1)


async def test_listed_doubles_are_kept_and_told() -> None:
    async with (
        SimNode(config()) as node,
        SimNode(config(1)) as other,
        httpx.AsyncClient() as client,
    ):
        listed = [node.url, f"http://localhost:{node.port}", other.url]
        async with running_gateway(*listed, discovery=OFTEN) as running:
            doubles: dict[str, str] = {}
            async with asyncio.timeout(10):
                while not any(doubles.values()):
                    answer = await client.get(f"{running.url}/sollol/v1/nodes")
                    doubles = {n["id"]: n["duplicate_of"] for n in answer.json()["nodes"]}
            first = f"127.0.0.1:{node.port}"
            assert doubles == {
                first: "",
                f"localhost:{node.port}": first,
                f"127.0.0.1:{other.port}": "",
            }


async def test_servers_that_share_a_store_are_told_apart_once_one_works() -> None:
    """They have the same models of the same age, but not the same ones in memory."""
    names = Names("127.0.0.3")
    async with SimNode(config(host="127.0.0.2")) as one, httpx.AsyncClient(timeout=20) as client:
        async with SimNode(config(host="127.0.0.3", port=one.port)) as two:
            discovery = {**OFTEN, "dns": f"gpus:{one.port}"}
            async with running_gateway(
                one.url, look_up=names.look_up, discovery=discovery
            ) as running:
                await names.wait_rounds(6)
                assert ids(running) == {f"127.0.0.2:{one.port}"}
                body = {"model": MODEL, "prompt": "hi", "stream": False}
                await client.post(f"{running.url}/api/generate", json=body)
                await running.wait_healthy(2)
                assert f"127.0.0.3:{two.port}" in ids(running)


# --- announcements -------------------------------------------------------------------------------


@pytest.fixture
async def announced() -> AsyncIterator[int]:
    """Announce a server on loopback; the port it has."""
    with held_port() as port:
        async with announcing(port):
            yield port


@contextlib.asynccontextmanager
async def announcing(port: int) -> AsyncIterator[None]:
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    name = f"test-{port}._ollama._tcp.local."
    info = AsyncServiceInfo(
        "_ollama._tcp.local.", name, port, addresses=[socket.inet_aton("127.0.0.1")],
        server=f"test-{port}.local.",
    )  # fmt: skip
    zeroconf = AsyncZeroconf(interfaces=["127.0.0.1"])
    await (await zeroconf.async_register_service(info))
    yield
    await zeroconf.async_unregister_all_services()
    await zeroconf.async_close()


async def test_what_announces_itself_is_heard(announced: int) -> None:
    finder = MdnsFinder(1.0, ["127.0.0.1"])
    try:
        heard = [candidate.url for candidate in (await finder.find()).candidates]
    finally:
        await finder.close()
    assert f"http://127.0.0.1:{announced}" in heard


def test_an_address_that_every_interface_can_use_is_taken() -> None:
    assert first_usable(["fe80::1", "fd00::1", "192.168.0.2"]) == "192.168.0.2"
    assert first_usable(["fe80::1", "fd00::1"]) == "fd00::1"
    assert first_usable(["fe80::1"]) is None
