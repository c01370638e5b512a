"""What speeds were measured for each model on each node, and what to expect of the others."""

from collections.abc import Iterable, Sequence
from math import exp, log

from sollol.scheduling.average import LEAST, MOST, Average
from sollol.scheduling.kept import REFUSED, number, part, rows, text
from sollol.scheduling.speeds import Speeds
from sollol.scheduling.state import SLOPE, Node, Rates, Runner

DECODE_BYTES_PER_S = 100e9
PREFILL_BYTES_PER_S = 3000e9
LOAD_BYTES_PER_S = 1e9
"""A middling GPU and an SSD; only used before the first measurement of all."""

GUESS_WEIGHT = 0.5
"""How many measurements the expectation from other nodes and models is worth."""

CPU_SLOWDOWN = 9.0
"""A model that is wholly on the CPU is about ten times slower than on the node's GPU."""

WORTH_LOAD_S = 0.1
"""Less is what finding a loaded model takes, however much of it the node calls a load."""

REFRESHED_AT_ONCE = 500
"""Runners whose expectations are brought up to date in one go: some milliseconds."""

MANY_HITS = 8
"""So many answers in a row that were too fast to be without a cached prompt: the node is faster."""

MAX_SLOPE = 2.0


class RateBook:
    """Sole owner of the measured speeds; puts into each runner what to expect of it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Rates] = {}
        self._decode = Speeds(DECODE_BYTES_PER_S)
        self._prefill = Speeds(PREFILL_BYTES_PER_S)
        self._load = Speeds(LOAD_BYTES_PER_S)
        self._slopes: dict[str, float] = {}
        self._slow: dict[tuple[str, str], None] = {}
        """Pairs that were slow since the start, be it over or not."""
        self._is_stale = False
        self._stale: list[Runner] = []

    def join(self, node: Node) -> None:
        """Give a node's runners what is known of them."""
        node.set_slope(self._slopes.get(node.id, SLOPE))
        for runner in node.runners.values():
            runner.rates = self._known.setdefault((node.id, runner.key), runner.rates)
            self._expect(runner)

    def forget_node(self, node_id: str) -> None:
        """Drop what is known of a node that is gone."""
        self._slopes.pop(node_id, None)
        for speeds in (self._decode, self._prefill, self._load):
            speeds.forget_node(node_id)
        for pair in [pair for pair in self._known if pair[0] == node_id]:
            del self._known[pair]
            self._slow.pop(pair, None)

    def as_lists(self) -> dict[str, object]:
        """Return what is worth keeping between runs; of the pairs, those with a measurement."""
        return {
            "pairs": [
                [*pair, *(kind.as_list() if kind.count else None for kind in _kinds(rates))]
                for pair, rates in self._known.items()
                if rates.decode.count or rates.prefill.count or rates.load.count
            ],
            "decode": self._decode.as_lists(),
            "prefill": self._prefill.as_lists(),
            "load": self._load.as_lists(),
            "slopes": [[node_id, slope] for node_id, slope in self._slopes.items()],
        }

    def take(self, kept: object) -> int:
        """Take over what :meth:`as_lists` gave; return how much of it did not fit.

        Nodes that are there already get it with the next :meth:`join`.
        """
        dropped = self._decode.take(part(kept, "decode"))
        dropped += self._prefill.take(part(kept, "prefill"))
        dropped += self._load.take(part(kept, "load"))
        for row in rows(kept, "pairs"):
            try:
                pair, rates = (text(row[0]), text(row[1])), _rates(row[2:])
            except REFUSED:
                dropped += 1
            else:
                self._known[pair] = rates
        for row in rows(kept, "slopes"):
            try:
                self._slopes[text(row[0])] = number(row[1], 0.0, MAX_SLOPE)
            except REFUSED:
                dropped += 1
        return dropped

    def slow(self) -> Iterable[tuple[str, str]]:
        """Return the pairs of node and runner that were slow since the start, be it over or not."""
        return self._slow

    def refresh(self, nodes: Iterable[Node]) -> None:
        """Bring expectations up to date that rest on other nodes and models; for now and then."""
        if not self._stale and self._is_stale:
            self._is_stale = False
            self._stale = [runner for node in nodes for runner in node.runners.values()]
        for _ in range(min(REFRESHED_AT_ONCE, len(self._stale))):
            self._expect(self._stale.pop())

    def learn_load(self, runner: Runner, seconds: float, now: float) -> None:
        """Take how long a load took."""
        if seconds < WORTH_LOAD_S:
            return
        runner.rates.load.add(seconds, now)
        self._learned(self._load, runner, seconds)

    def learn_prefill(
        self, runner: Runner, tokens: float, seconds: float, now: float, *, is_exact: bool
    ) -> None:
        """Take how long evaluating a prompt took.

        Args:
            is_exact: how many tokens were not cached is known, not supposed.
        """
        rate = runner.rates.prefill
        each_s = seconds / tokens
        if not is_exact and rate.count >= 3 and each_s < rate.mean / 3:
            runner.rates.quick += 1
            if runner.rates.quick < MANY_HITS:
                return
        runner.rates.quick = 0
        rate.add(each_s, now)
        self._learned(self._prefill, runner, each_s)

    def learn_decode(self, runner: Runner, each_s: float, concurrency: float, now: float) -> None:
        """Take how long a token took with ``concurrency`` sequences on the node, this one counted."""
        if not LEAST < each_s < MOST:
            return
        node, rate = runner.node, runner.rates.decode
        others = max(0.0, concurrency - 1.0)
        if others > 0.3 and rate.count >= 3:
            slope = (each_s / rate.mean - 1.0) / others
            node.set_slope(node.slope + 0.05 * (min(2.0, max(0.0, slope)) - node.slope))
            self._slopes[node.id] = node.slope
        alone_s = each_s / (1.0 + node.slope * others)
        if runner.rates.pace.take(alone_s, rate.best, rate.count):
            self._slow[(node.id, runner.key)] = None
        rate.add(alone_s, now)
        self._learned(self._decode, runner, alone_s)

    def _learned(self, speeds: Speeds, runner: Runner, seconds: float) -> None:
        if not LEAST < seconds < MOST:
            return
        speeds.learn(runner.node.id, runner.key, runner.size_bytes, seconds)
        self._is_stale = True
        self._expect(runner)

    def _expect(self, runner: Runner) -> None:
        slower = 1.0 + CPU_SLOWDOWN * runner.cpu_share
        rates = runner.rates
        runner.decode_s = self._blend(rates.decode, self._decode, runner, slower)
        runner.prefill_s = self._blend(rates.prefill, self._prefill, runner, slower)
        runner.load_s = self._blend(rates.load, self._load, runner, 1.0)
        runner.update_columns()

    def _blend(self, measured: Average, speeds: Speeds, runner: Runner, slower: float) -> float:
        guess = speeds.expected_s(runner.node.id, runner.key, runner.size_bytes) * slower
        if not measured.count:
            return guess
        count = min(measured.count, 8)
        weights = count + GUESS_WEIGHT
        return exp((count * measured.log_mean + GUESS_WEIGHT * log(guess)) / weights)


def _kinds(rates: Rates) -> tuple[Average, Average, Average]:
    return rates.decode, rates.prefill, rates.load


def _rates(kept: Sequence[object]) -> Rates:
    """Return what was kept of a pair of node and model."""
    decode, prefill, load = kept
    rates = Rates()
    rates.decode, rates.prefill, rates.load = _average(decode), _average(prefill), _average(load)
    return rates


def _average(kept: object) -> Average:
    if kept is None:
        return Average()
    if not isinstance(kept, list):
        raise ValueError("not an average")
    return Average.from_list(kept)
