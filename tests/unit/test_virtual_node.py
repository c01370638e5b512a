"""A virtual node: its timings, its slots and its memory."""

from dataclasses import replace
from typing import Any

import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.virtual.loop import EventLoop
from sollol.bench.virtual.node import VirtualNode, Visit, wall_clock
from sollol.wire.names import model_key

HOT_S = 0.002
A = SimModel("a", size_gib=4.0)
B = SimModel("b", size_gib=4.0)
C = SimModel("c", size_gib=4.0)
EMBEDS = SimModel("e", size_gib=1.0, capabilities=("embedding",))
PLAIN = SimConfig(
    models=(A, B, C, EMBEDS),
    vram_gib=10.0,
    load_gib_per_s=2.0,
    prefill_tok_s=1000.0,
    decode_tok_s=10.0,
    embed_tok_s=1000.0,
    batch_slowdown=0.5,
)


class Bench:
    """One node, and requests sent to it at chosen moments."""

    def __init__(self, config: SimConfig = PLAIN) -> None:
        self.loop = EventLoop()
        self.node = VirtualNode(self.loop, "n", config)
        self.ended: list[Visit] = []

    def send(
        self, at: float, model: str, prompt: int = 100, output: int = 10, **more: Any
    ) -> Visit:
        options = {"num_ctx": more.pop("num_ctx")} if "num_ctx" in more else {}
        visit = Visit(model, prompt, output, options=options, ended=self.ended.append, **more)
        self.loop.at(at, lambda: self.node.serve(visit))
        return visit

    def run(self) -> None:
        """Until every answer is there and every model has expired."""
        self.loop.run(lambda: False)
        assert self.node.in_flight == 0

    def loaded(self) -> list[str]:
        return [runner.model.name for runner in self.node.memory.loaded.values()]

    def loaded_at(self, moment: float) -> list[str]:
        seen: list[list[str]] = []
        self.loop.at(moment, lambda: seen.append(self.loaded()))
        self.run()
        return seen[0]


def test_a_cold_request_is_loaded_read_and_answered() -> None:
    bench = Bench()
    visit = bench.send(1.0, "a", prompt=100, output=20)
    bench.run()
    assert (visit.load_s, visit.queue_s) == (2.0, 0.0)
    assert visit.prompt_s == pytest.approx(0.1)
    assert visit.output_s == pytest.approx(2.0)
    parts_s = visit.load_s + visit.prompt_s + HOT_S + visit.output_s
    assert visit.total_s == pytest.approx(parts_s)
    assert visit.first_byte_at == pytest.approx(1.0 + 2.0 + 0.1 + HOT_S)


def test_a_loaded_model_answers_without_a_load() -> None:
    bench = Bench()
    first, second = bench.send(0.0, "a"), bench.send(10.0, "a")
    bench.run()
    assert first.was_loaded
    assert not second.was_loaded
    assert second.load_s == HOT_S


def test_more_than_the_slots_wait_in_order() -> None:
    bench = Bench(replace(PLAIN, slots=2))
    visits = [bench.send(0.001 * place, "a") for place in range(5)]
    bench.run()
    assert bench.node.max_running == {"a": 2}
    assert bench.ended == visits
    assert [visit.queue_s > 0 for visit in visits] == [False, False, True, True, True]


def test_others_that_decode_slow_an_answer_down_on_the_whole_node() -> None:
    bench = Bench()
    bench.send(0.0, "a")
    bench.send(0.0, "b")
    one, other = bench.send(20.0, "a", output=20), bench.send(20.0, "b", output=20)
    bench.run()
    assert one.output_s == other.output_s == pytest.approx(2.0 * 1.5)


def test_loads_happen_one_after_another_and_waiting_counts_as_load() -> None:
    bench = Bench()
    first, second = bench.send(0.0, "a"), bench.send(0.0, "b")
    third = bench.send(0.5, "a")
    bench.run()
    assert (first.load_s, second.load_s) == (2.0, 4.0)
    assert third.load_s == 3.5  # behind the load of another model, though its own is in memory


def test_the_model_unused_for_longest_makes_room() -> None:
    bench = Bench()
    bench.send(0.0, "a")
    bench.send(10.0, "b")
    bench.send(20.0, "a")
    bench.send(30.0, "c")
    assert bench.loaded_at(40.0) == ["a", "c"]
    assert bench.node.memory.unloads["room"] == 1


def test_a_busy_victim_is_waited_for_and_goes_on_serving() -> None:
    bench = Bench(replace(PLAIN, vram_gib=5.0, slots=2))
    long = bench.send(0.0, "a", output=100)
    waits = bench.send(5.0, "b")
    slips_in = bench.send(6.0, "a", output=100)
    bench.run()
    assert [long, slips_in, waits] == bench.ended
    assert waits.load_s == pytest.approx(slips_in.ended_at - 5.0 + 2.0)


def test_an_idle_model_makes_room_before_a_busy_one() -> None:
    bench = Bench()
    bench.send(0.0, "b")
    bench.send(1.0, "a", output=200)
    bench.send(10.0, "c")
    assert bench.loaded_at(13.0) == ["a", "c"]


def test_no_more_models_than_allowed() -> None:
    bench = Bench(replace(PLAIN, vram_gib=100.0, max_loaded=1))
    bench.send(0.0, "a")
    bench.send(10.0, "b")
    assert bench.loaded_at(20.0) == ["b"]


def test_a_model_too_large_for_the_memory_is_alone_and_slow() -> None:
    bench = Bench(replace(PLAIN, vram_gib=2.0))
    visit = bench.send(0.0, "a", prompt=100, output=10)
    bench.run()
    assert visit.prompt_s == pytest.approx(0.1 * 5.5)
    assert visit.output_s == pytest.approx(1.0 * 5.5)


def test_another_context_length_is_a_reload_that_waits_for_the_others() -> None:
    bench = Bench()
    first = bench.send(0.0, "a", output=50, num_ctx=2048)
    second = bench.send(3.0, "a", num_ctx=4096)
    bench.run()
    assert bench.node.memory.loads == {"cold": 1, "reload": 1}
    assert second.load_s == pytest.approx(first.ended_at - 3.0 + 2.0)


def test_a_reload_that_must_also_make_room_is_one_reload() -> None:
    config = replace(PLAIN, kv_bytes_per_token=1024**2)
    bench = Bench(config)
    bench.send(0.0, "a", num_ctx=1)
    bench.send(10.0, "b", num_ctx=1)
    busy = bench.send(20.0, "b", output=100, num_ctx=1)
    grown = bench.send(21.0, "a", num_ctx=4096)
    bench.run()
    assert grown.ended_at > busy.ended_at
    assert bench.node.memory.loads == {"cold": 2, "reload": 1}
    assert bench.node.memory.unloads["room"] == 1


def test_a_model_leaves_when_nobody_has_used_it_for_long_enough() -> None:
    bench = Bench(replace(PLAIN, keep_alive_s=60.0))
    bench.send(0.0, "a")
    last = bench.send(50.0, "a")
    assert bench.loaded_at(100.0) == ["a"]
    assert bench.loop.now == pytest.approx(last.ended_at + 60.0)
    assert bench.node.memory.unloads["expired"] == 1


def test_a_use_that_lasts_past_the_expiry_keeps_the_model() -> None:
    bench = Bench(replace(PLAIN, keep_alive_s=10.0))
    first = bench.send(0.0, "a")
    bench.send(5.0, "a", output=200)
    assert bench.loaded_at(20.0) == ["a"]
    assert first.ended_at + 10.0 < 20.0


@pytest.mark.parametrize(("keep_alive_s", "loaded"), [(0.0, []), (float("inf"), ["a"])])
def test_a_model_that_is_kept_never_or_for_ever(keep_alive_s: float, loaded: list[str]) -> None:
    bench = Bench(replace(PLAIN, keep_alive_s=keep_alive_s))
    bench.send(0.0, "a")
    assert bench.loaded_at(1e6) == loaded


def test_a_busy_victim_that_is_not_kept_leaves_by_itself() -> None:
    bench = Bench(replace(PLAIN, vram_gib=5.0, keep_alive_s=0.0))
    first = bench.send(0.0, "a", output=50)
    second = bench.send(3.0, "b")
    bench.run()
    assert second.load_s == pytest.approx(first.ended_at - 3.0 + 2.0)
    assert bench.node.memory.unloads == {"room": 0, "reload": 0, "expired": 2}


def test_too_many_that_wait_for_loads_are_refused() -> None:
    bench = Bench(replace(PLAIN, max_queue=1))
    visits = [bench.send(0.0, name) for name in ("a", "b", "c")]
    bench.run()
    assert [visit.is_refused for visit in visits] == [False, False, True]


def test_the_known_start_of_a_conversation_is_not_read_again() -> None:
    bench = Bench()
    bench.send(0.0, "a", prompt=100, output=30, conversation=7)
    again = bench.send(20.0, "a", prompt=200, known_tokens=130, conversation=7)
    other = bench.send(40.0, "a", prompt=200, known_tokens=130, conversation=8)
    bench.run()
    assert (again.cached_tokens, other.cached_tokens) == (128, 0)  # whole blocks of 32
    assert again.prompt_s == pytest.approx((200 - 128) / 1000)


def test_conversations_are_forgotten_for_others() -> None:
    bench = Bench(replace(PLAIN, prefix_cache_tokens=300))
    bench.send(0.0, "a", prompt=150, output=10, conversation=1)
    bench.send(20.0, "a", prompt=150, output=10, conversation=2)
    forgotten = bench.send(40.0, "a", prompt=300, known_tokens=160, conversation=1)
    bench.run()
    assert forgotten.cached_tokens == 0


def test_a_prompt_is_cut_to_the_context_and_never_all_known() -> None:
    bench = Bench()
    bench.send(0.0, "a", prompt=64, output=64, conversation=1, num_ctx=64)
    again = bench.send(20.0, "a", prompt=500, known_tokens=128, conversation=1, num_ctx=64)
    bench.run()
    assert (again.prompt_tokens, again.cached_tokens) == (64, 63)


def test_embeddings_have_one_slot_and_no_output() -> None:
    bench = Bench(replace(PLAIN, slots=4))
    first, second = (bench.send(0.0, "e", prompt=500, output=0) for _ in range(2))
    bench.run()
    assert first.prompt_s == second.queue_s == pytest.approx(0.5)
    assert first.output_s == 0.0
    assert first.first_byte_at == first.ended_at


def test_the_size_of_a_model_decides_its_speed_if_the_speeds_are_of_one_size() -> None:
    bench = Bench(replace(PLAIN, reference_gib=2.0))
    visit = bench.send(0.0, "a", prompt=100, output=10)
    bench.run()
    assert visit.prompt_s == pytest.approx(0.2)
    assert visit.output_s == pytest.approx(2.0)


def test_a_slow_node_recovers() -> None:
    bench = Bench()
    bench.node.set_slowdown(5.0)
    slow = bench.send(0.0, "a", output=10)
    bench.loop.at(50.0, lambda: bench.node.set_slowdown(1.0))
    fast = bench.send(60.0, "a", output=10)
    bench.run()
    assert slow.prompt_s == pytest.approx(0.5)
    assert slow.output_s == pytest.approx(5.0)
    assert slow.total_s == pytest.approx(10.0 + 0.5 + HOT_S + 5.0)
    assert fast.output_s == pytest.approx(1.0)


def test_a_probe_finds_what_is_on_disk_and_what_is_loaded() -> None:
    bench = Bench(replace(PLAIN, vram_gib=2.0))
    bench.send(0.0, "a", num_ctx=2048)
    bench.loop.run(lambda: bool(bench.ended))
    view = bench.node.view()
    assert set(view.models) == {model_key(name) for name in "abce"}
    resident = view.resident[model_key("a")]
    assert (resident.size_bytes, resident.vram_bytes) == (A.size_bytes, A.size_bytes // 2)
    assert resident.context_length == 2048
    assert resident.expires_at == wall_clock(bench.loop.now + 300.0)


def test_a_model_that_was_never_idle_would_leave_after_its_time_from_now() -> None:
    bench = Bench()
    visit = bench.send(0.0, "a")
    bench.loop.run(lambda: visit.load_s > 0)
    resident = bench.node.view().resident[model_key("a")]
    assert resident.expires_at == wall_clock(bench.loop.now + 300.0)


def test_a_model_that_is_kept_for_ever_shows_a_day_far_off() -> None:
    bench = Bench(replace(PLAIN, keep_alive_s=float("inf")))
    bench.send(0.0, "a")
    bench.run()
    assert bench.node.view().resident[model_key("a")].expires_at.startswith("2318-")
