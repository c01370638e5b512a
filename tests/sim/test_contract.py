"""A real Ollama's recorded answers, asked of the gateway over an empty node."""

import httpx
import pytest

from sollol.bench.sim.config import SimConfig
from tests.contract.golden import Answer, Entry, make_answer, read_differences, read_entries
from tests.fleets import a_fleet

pytestmark = pytest.mark.sim


async def ask(client: httpx.AsyncClient, entry: Entry) -> Answer:
    """Return the gateway's answer, without the headers that no client acts on."""
    headers = entry.request_headers
    answer = await client.request(
        entry.method, f"{client.base_url}{entry.path}", content=entry.request, headers=headers
    )
    told = [
        (name, value)
        for name, value in answer.headers.multi_items()
        if not name.startswith("x-sollol-")
    ]
    return make_answer(answer.status_code, told, answer.text)


@pytest.mark.parametrize("count", [1, 2])
async def test_every_recorded_answer_is_ours_but_for_the_documented_differences(count: int) -> None:
    async with a_fleet(*[SimConfig()] * count) as fleet:
        differing = {}
        for entry in read_entries():
            answer = await ask(fleet.client, entry)
            if answer != entry.answer:
                differing[entry.name] = (answer, entry.answer)
        documented = read_differences()
        unexpected = {name: pair for name, pair in differing.items() if name not in documented}
        assert not unexpected
        assert documented == set(differing), "documented, but no longer different"
