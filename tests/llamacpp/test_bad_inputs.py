"""Models, files and names that cannot be run, through the gateway over HTTP.

Each is refused with a text that says what is wrong and what to do, in the form of the caller's API;
the log has no traceback, no process is left, and a good model is served as before.
"""

from collections.abc import AsyncIterator

import pytest

from sollol.bench.sharding_memory import running_worker
from sollol.llamacpp.binaries import find_binaries
from tests.conftest import BAD_INPUT
from tests.gateways import running_gateway
from tests.llamacpp.bad_models import BAD_MODELS, BadModel, good
from tests.llamacpp.refusals import (
    Asker,
    Caplog,
    Capsys,
    Record,
    check_quiet,
    client_of,
    sharding,
    told,
)
from tests.llamacpp.shards import NEEDS_WORKERS
from tests.shards import Store

pytestmark = NEEDS_WORKERS


@pytest.fixture(scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Store, Asker]]:
    """A gateway over two workers; one of them holds the good model."""
    store = Store(tmp_path_factory.mktemp("ollama") / "models")
    good(store, "good")
    binaries = find_binaries()
    async with running_worker(binaries) as one, running_worker(binaries) as other:
        settings = {"workers": [f"{one}=1", f"{other}=1"], **sharding(store)}
        async with running_gateway(sharding=settings) as running:
            async with client_of(running.url) as client:
                asker = Asker(client, "good")
                assert (await asker.ask(0, "good")).status_code == 200
                yield store, asker


@pytest.mark.parametrize("bad", BAD_MODELS, ids=[bad.name for bad in BAD_MODELS])
async def test_a_model_that_cannot_be_run(
    bad: BadModel, rig: tuple[Store, Asker], record_property: Record, capsys: Capsys, caplog: Caplog
) -> None:
    store, asker = rig
    bad.put(store, bad.name)
    number = BAD_MODELS.index(bad)
    answer = await asker.refused(number, bad.model)
    text = told(answer)
    record_property(BAD_INPUT, (number, bad.name, answer.status_code, text))
    assert answer.status_code == bad.status, text
    for words in bad.says:
        assert words in text
    assert bad.asked or bad.name in text.replace(str(store.root), "")
    check_quiet(capsys, caplog)


def test_the_table_is_long_enough() -> None:
    assert len({bad.name for bad in BAD_MODELS}) == len(BAD_MODELS) >= 36
