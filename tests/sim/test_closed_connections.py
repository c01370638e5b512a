"""A closed connection of a caller is gone at once: nothing waits for the garbage collector."""

import asyncio
import gc

from sollol.api.protocol import GatewayProtocol
from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from tests.gateways import RunningGateway, running_gateway, wait_for

WHOLE = (
    b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 28\r\n\r\n"
    b'{"model":"m","prompt":"hey"}'
)


def open_connections() -> int:
    return sum(isinstance(one, GatewayProtocol) for one in gc.get_objects())


async def talk(running: RunningGateway, sent: bytes) -> bytes:
    port = int(running.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    if sent is not WHOLE:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_closed_connections_leave_no_cycles() -> None:
    async with SimNode(SimConfig(models=(SimModel("m"),))) as node, running_gateway(node.url) as g:
        gc.collect()
        before = open_connections()  # of other tests, held by something of theirs
        gc.disable()
        try:
            for sent in (WHOLE, b"", b"GET / HT", b"\x00 no HTTP\r\n\r\n"):
                answer = await talk(g, sent)
                assert (b"200 OK" in answer) == (sent is WHOLE)
                await wait_for(lambda: open_connections() <= before)
        finally:
            gc.enable()
