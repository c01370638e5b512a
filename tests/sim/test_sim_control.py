"""The side channel and the command line of simulated nodes."""

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from sollol.bench.sim.command import main, parse_arguments, run_nodes
from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from tests.raw_http import wait_until

pytestmark = pytest.mark.sim


@pytest.fixture
async def node() -> AsyncIterator[SimNode]:
    async with SimNode(SimConfig(models=(SimModel("a"),), control_port=0)) as made:
        yield made


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=10) as made:
        yield made


async def test_the_state_can_be_seen(node: SimNode, client: httpx.AsyncClient) -> None:
    await client.post(f"{node.url}/api/generate", json={"model": "a"})
    state = (await client.get(f"{node.control_url}/sim/state")).json()
    assert state["requests"] == 1
    assert state["outcomes"] == {"completed": 1}
    assert state["loaded"] == ["a:latest"]
    assert state["loads"][0]["outcome"] == "completed"
    assert state["open_connections"] == 1


async def test_faults_are_set_and_cleared(node: SimNode, client: httpx.AsyncClient) -> None:
    faults = f"{node.control_url}/sim/faults"
    answer = await client.post(faults, json={"kind": "status", "status": 502, "times": 5})
    assert answer.json()["faults"][0]["kind"] == "status"
    assert (await client.get(f"{node.url}/api/tags")).status_code == 502
    assert (await client.delete(faults)).json() == {"faults": []}
    assert (await client.get(f"{node.url}/api/tags")).status_code == 200
    assert (await client.get(faults)).json() == {"faults": []}


@pytest.mark.parametrize(
    "body", [b"{}", b"{", b'{"kind":"explode"}', b'{"kind":"status","status":"x"}']
)
async def test_wrong_faults_are_refused(
    node: SimNode, client: httpx.AsyncClient, body: bytes
) -> None:
    answer = await client.post(f"{node.control_url}/sim/faults", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize("body", [b"{}", b'{"kind":"explode"}'])
async def test_an_unknown_fault_is_answered_with_the_kinds(
    node: SimNode, client: httpx.AsyncClient, body: bytes
) -> None:
    answer = await client.post(f"{node.control_url}/sim/faults", content=body)
    assert "kind is one of refuse, black_hole, " in answer.json()["error"]


async def test_the_listener_is_closed_and_opened(node: SimNode, client: httpx.AsyncClient) -> None:
    url = f"{node.control_url}/sim/listener"
    await client.post(url, json={"listening": False})
    with pytest.raises(httpx.ConnectError):
        await client.get(f"{node.url}/")
    await client.post(url, json={"listening": True})
    assert (await client.get(f"{node.url}/")).status_code == 200


async def test_connections_are_reset(node: SimNode, client: httpx.AsyncClient) -> None:
    await client.get(f"{node.url}/")
    assert node.open_connections == 1
    await client.delete(f"{node.control_url}/sim/connections")
    await wait_until(lambda: node.open_connections == 0)
    assert (await client.get(f"{node.control_url}/sim/nope")).status_code == 404


def test_the_command_line_makes_nodes_on_ports_that_follow() -> None:
    arguments = "--port 5000 --count 2 --models a,nomic-embed-text --slots 4 --control-port 6000"
    first, second = parse_arguments(arguments.split())
    assert (first.port, second.port) == (5000, 5001)
    assert (first.control_port, second.control_port) == (6000, 6001)
    assert [model.name for model in first.models] == ["a", "nomic-embed-text"]
    assert (first.slots, first.time_scale) == (4, 1.0)


def test_the_command_line_makes_nodes_of_different_kinds() -> None:
    arguments = "--node 5000:slots=2,vram_gib=48 --node 5001 --decode-tok-s 90"
    first, second = parse_arguments(arguments.split())
    assert (first.port, first.slots, first.vram_gib) == (5000, 2, 48.0)
    assert (second.port, second.slots, second.decode_tok_s) == (5001, 1, 90.0)


@pytest.mark.parametrize("node", ["x", "5000:colour=red", "5000:slots=many"])
def test_a_wrong_node_is_an_error(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--node", node])
    assert "error" in capsys.readouterr().err


async def test_the_command_runs_its_nodes(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [SimConfig(models=(SimModel("a"),), control_port=0), SimConfig()]
    running = asyncio.ensure_future(run_nodes(configs))
    printed: list[str] = []

    def both_are_up() -> bool:
        printed.extend(capsys.readouterr().out.splitlines())
        return len(printed) == 2

    await wait_until(both_are_up)
    url = printed[0].partition(": ")[0]
    assert (await client.get(f"{url}/api/tags")).json()["models"][0]["name"] == "a:latest"
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_a_port_that_is_taken_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr("sys.argv", ["sim", "--port", str(taken.getsockname()[1])])
        with pytest.raises(SystemExit, match=r"cannot listen: .*ddress already in use"):
            main()
