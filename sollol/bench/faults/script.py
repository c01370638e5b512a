"""A script of faults: which node fails when and how, the same for all that are compared.

One node fails at a time, so that another can always answer; each kind of fault comes up as often as
the others.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import msgspec

from sollol.bench.sim.faults import Fault

_HOST = "127.0.0.1"
_INFERENCE = "/api/[ceg][hme]*"  # chat, embed and generate, but not what probes ask for
KINDS: Mapping[str, Fault] = {
    "dies": Fault("refuse"),
    "closes new connections": Fault("reset_on_accept"),
    "closes instead of an answer": Fault("close_before_head", path=_INFERENCE),
    "hangs": Fault("hang_before_head", path=_INFERENCE),
    "runner crashes": Fault("status", path=_INFERENCE, status=500),
    "says its queue is full": Fault("status", path=_INFERENCE, status=503),
    "talks no HTTP": Fault("garbage", path=_INFERENCE),
    "error as first record": Fault("error_record_first", path=_INFERENCE),
    "cuts streams": Fault("cut_after_n_records", path=_INFERENCE, records=3),
}
_LASTS_S = (10.0, 40.0)
_CALM_S = (5.0, 20.0)


@dataclass(frozen=True, slots=True)
class Outage:
    """A node that fails for a while; seconds of the nodes' time since the first request was due."""

    node: str
    kind: str
    begins_s: float
    ends_s: float


def make_script(nodes: Sequence[str], span_s: float, seed: int) -> list[Outage]:
    """Return the outages of ``span_s`` seconds, in order."""
    rng = Random(seed)
    kinds, names = _dealt(list(KINDS), rng), _dealt(list(nodes), rng)
    script: list[Outage] = []
    begins_s = rng.uniform(*_CALM_S)
    while begins_s < span_s:
        ends_s = begins_s + rng.uniform(*_LASTS_S)
        script.append(Outage(next(names), next(kinds), begins_s, ends_s))
        begins_s = ends_s + rng.uniform(*_CALM_S)
    return script


def _dealt(cards: list[str], rng: Random) -> Iterator[str]:
    """Give out all, in a random order, again and again."""
    while True:
        rng.shuffle(cards)
        yield from cards


async def act_out(
    script: Sequence[Outage], control_ports: Mapping[str, int], time_scale: float
) -> None:
    """Switch faults on and off when it is time to.

    Args:
        control_ports: of the nodes' side channels, by name.
        time_scale: real seconds of a second of the nodes.

    Raises:
        OSError: a node's side channel does not answer.
    """
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for outage in script:
        port = control_ports[outage.node]
        await _sleep_until(begin + outage.begins_s * time_scale)
        fault = KINDS[outage.kind]
        await _send(port, "POST", "/sim/faults", msgspec.json.encode(fault))
        if fault.kind == "refuse":
            await _send(port, "DELETE", "/sim/connections")
        await _sleep_until(begin + outage.ends_s * time_scale)
        await _send(port, "DELETE", "/sim/faults")


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - asyncio.get_running_loop().time()))


async def _send(port: int, method: str, path: str, body: bytes = b"") -> None:
    reader, writer = await asyncio.open_connection(_HOST, port)
    head = f"{method} {path} HTTP/1.1\r\nHost: {_HOST}\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    try:
        answer = await reader.read()
    finally:
        writer.close()
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise OSError(f"{method} {path}: the node's side channel answered {answer[:200]!r}")
