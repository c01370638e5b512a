"""What is told of models that became slow, and of those that are on the CPU all at once."""

from dataclasses import replace

from structlog.testing import capture_logs

from sollol.gateway.slowness import Slowness
from sollol.scheduling.overview import SlowModel
from sollol.types import Model, NodeView, Resident
from tests.scheduling import view

SLOW = SlowModel("n", "m", ("m",), 5.0, 100.0, True)
FAST = replace(view("n", "m"), models={"m": Model("m", "m:1b")})


def test_each_change_is_told_once() -> None:
    models: list[SlowModel] = []
    slowness = Slowness(lambda: models)
    with capture_logs() as logs:
        slowness.look()
        models.append(SLOW)
        slowness.look()
        slowness.look()
        assert slowness.of("n") == [SLOW]
        assert slowness.of("other") == []
        models[0] = SlowModel("n", "m", ("m",), 90.0, 100.0, False)
        slowness.look()
        slowness.look()
        assert slowness.of("n") == []
    assert [line["event"] for line in logs] == ["node_slow", "node_fast"]
    assert dict(logs[0]) == {
        "event": "node_slow",
        "log_level": "warning",
        "node": "n",
        "models": ["m"],
        "tokens_per_s": 5.0,
        "best_tokens_per_s": 100.0,
    }
    assert logs[1]["tokens_per_s"] == 90.0


def test_a_node_that_comes_back_is_told_of_again() -> None:
    slowness = Slowness(lambda: [SLOW])
    with capture_logs() as logs:
        slowness.look()
        slowness.node_removed("other")
        slowness.look()
        slowness.node_removed("n")
        slowness.look()
    assert len(logs) == 2


def loaded(vram_bytes: int, size_bytes: int = 100) -> NodeView:
    resident = Resident("m", "m:1b", size_bytes=size_bytes, vram_bytes=vram_bytes)
    return replace(FAST, resident={"m": resident})


def told(*views: NodeView, forget_after: int = -1) -> list[float]:
    """Return the shares on the CPU that were told of."""
    slowness = Slowness(list)
    with capture_logs() as logs:
        for number, each in enumerate(views):
            slowness.node_changed(each)
            if number == forget_after:
                slowness.node_removed("other")
                slowness.node_removed("n")
    assert {(line["event"], line["node"], line["model"]) for line in logs} <= {
        ("model_on_cpu", "n", "m:1b")
    }
    return [line["cpu_share"] for line in logs]


def test_a_model_that_comes_back_on_the_cpu_is_told_of_once() -> None:
    assert told(loaded(100), FAST, loaded(0), loaded(0), loaded(40)) == [1.0]
    assert told(loaded(100), loaded(75), loaded(100), loaded(0)) == [0.25, 1.0]


def test_a_model_that_never_was_on_the_gpu_is_no_news() -> None:
    assert told(loaded(0), loaded(40)) == []
    assert told(loaded(100), loaded(0), forget_after=0) == []
    assert told(loaded(100), loaded(0, size_bytes=0)) == []
    assert told(loaded(100), replace(loaded(0), models={})) == []
