"""A good model that cannot be run for what is around it, through the gateway over HTTP.

The same is checked as for bad inputs; the good model that is served as before is that of a node.
"""

from pathlib import Path

import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from tests.conftest import BAD_INPUT
from tests.gateways import running_gateway
from tests.llamacpp.bad_models import BAD_MODELS, good
from tests.llamacpp.bad_surroundings import BAD_SURROUNDINGS, BadSurroundings
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


@pytest.mark.parametrize("bad", BAD_SURROUNDINGS, ids=[bad.name for bad in BAD_SURROUNDINGS])
async def test_a_good_model_that_cannot_be_run(
    bad: BadSurroundings, tmp_path: Path, record_property: Record, capsys: Capsys, caplog: Caplog
) -> None:
    store = Store(tmp_path / "models")
    good(store, "good")
    number = BAD_SURROUNDINGS.index(bad)
    node = SimNode(SimConfig(models=(SimModel("other"),), time_scale=0))
    async with node, bad.around(store, tmp_path) as changes:
        settings = sharding(store) | changes
        async with running_gateway(node.url, sharding=settings) as running:
            async with client_of(running.url) as client:
                with bad.meanwhile():
                    answer = await Asker(client, "other").refused(number, "good")
    text = told(answer)
    record_property(BAD_INPUT, (len(BAD_MODELS) + number, bad.name, answer.status_code, text))
    assert answer.status_code == bad.status, text
    (first, *_) = changes["workers"]
    for words in bad.says:
        assert words.format(worker=first.partition("=")[0]) in text
    assert "good" in text
    check_quiet(capsys, caplog)
