"""Compares the nodes for one request, by the policy, and learns from how it went."""

from collections.abc import Sequence
from random import Random

from sollol.scheduling.choice import by_cost, by_rank, pick, total_s
from sollol.scheduling.cost import Prices
from sollol.scheduling.decision import MAX_OPTIONS, Rule
from sollol.scheduling.demand import Demand
from sollol.scheduling.explore import WORSE_AT_MOST, Explorer
from sollol.scheduling.fleet import Fleet
from sollol.scheduling.kept import part
from sollol.scheduling.learning import Learner
from sollol.scheduling.lengths import Lengths
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.placement import Placement
from sollol.scheduling.policies import POLICIES
from sollol.scheduling.rates import RateBook
from sollol.scheduling.state import Held, Runner
from sollol.scheduling.verdict import Verdict
from sollol.scheduling.work import Priced, Work
from sollol.types import Measured, RouteRequest

VERSION = 1
"""Of the form in which what was learned is kept; another one is not read."""


_COST, _WAIT = Rule.COST, Rule.WAIT

TRIAL_PRIORITY = 5
"""Requests more urgent than this are not sent to a node on trial while there is another."""

LOOKED_AROUND = 24
"""So many nodes are looked at for a try, or for one that is free at all."""


class Chooser:
    """Holds what was learned, and decides with it."""

    def __init__(self, limits: SchedulerLimits, rng: Random) -> None:
        self.policy = POLICIES[limits.policy]
        self.rates = RateBook()
        self.lengths = Lengths()
        self.demand = Demand()
        self.fleet = Fleet(self.rates, limits)
        self._prices = Prices(self.demand, self.fleet.shared.copies)
        self.placement = Placement(self.fleet, self.demand, self._prices)
        self.lessons = 0
        """Whole answers heard of since the start; ``gateway/estimates.py`` saves when there are more."""
        self._explorer = Explorer(limits.explore_share)
        self._learner = Learner(self.rates, self.lengths)
        self._ageing_s = limits.ageing_s
        self._uses_affinity = limits.uses_affinity
        self._counts_options = limits.counts_options
        self._rng = rng
        self._policy_name = self.policy.name
        self._by_seconds = self.policy.rank is None

    def note_queue(self, *, is_long: bool) -> None:
        """Take note whether so many wait that no slot can be left free for the sake of others."""
        self._prices.spares_urgent = not is_long

    def work(self, request: RouteRequest, key: float, now: float) -> Work:
        """Return a request in the units that costs are made of."""
        ask, model = request.ask, request.model
        level = (now - key) / self._ageing_s
        return Work(
            model,
            self.lengths.prompt_tokens(model, ask),
            self.lengths.output_tokens(model, ask, request.caller),
            ask.options if self._counts_options else (),
            ask.conversation if self._uses_affinity else 0,
            key,
            level if level > request.priority else request.priority,
        )

    def choose(
        self,
        request: RouteRequest,
        work: Work,
        now: float,
        *,
        is_impatient: bool = False,
        is_preview: bool = False,
    ) -> Verdict:
        """Return the decision for a request.

        Args:
            work: what :meth:`work` makes of it.
            is_impatient: any node that can start now will do.
            is_preview: show as many options as there are; try nothing out.
        """
        runners = self.fleet.eligible(request, work.prompt_tokens)
        verdict = Verdict(request, work, self._policy_name, (), len(runners), _WAIT, None, None)
        if not runners:
            return verdict
        rng = Random(0) if is_preview else self._rng  # who looks changes nothing
        if self._by_seconds:
            self._by_cost(verdict, runners, now, rng, is_impatient, is_preview)
        else:
            self._by_rank(verdict, runners, now, rng)
        return verdict

    def learn(self, held: Held, measured: Measured, now: float) -> None:
        """Learn from an answer that was whole."""
        self.lessons += 1
        self._learner.learn(held, measured, now)
        if held.is_try and measured.total_s is not None:
            self._explorer.tried(held.lease.predicted_s, measured.total_s)

    def forget_node(self, node_id: str) -> None:
        """Drop what was learned of a node that is gone."""
        self.rates.forget_node(node_id)
        self.placement.forget_node(node_id)

    def learned(self) -> dict[str, object]:
        """Return what is worth keeping between runs; later events change nothing in it."""
        return {
            "version": VERSION,
            "rates": self.rates.as_lists(),
            "lengths": self.lengths.as_lists(),
            "memory": self.fleet.kept.as_lists(self.fleet.nodes.values()),
        }

    def take_learned(self, kept: object) -> int:
        """Take over what :meth:`learned` gave; return how much of it did not fit.

        Raises:
            ValueError: it is something else, or of another version.
        """
        if part(kept, "version") != VERSION:
            raise ValueError(f"not estimates of version {VERSION}")
        dropped = self.rates.take(part(kept, "rates")) + self.lengths.take(part(kept, "lengths"))
        dropped += self.fleet.kept.take(part(kept, "memory"))
        for node in self.fleet.nodes.values():
            self.rates.join(node)
            self.fleet.kept.give(node)
        return dropped

    def clean(self, now: float) -> None:
        """Bring up to date what need not be at every moment."""
        self.rates.refresh(self.fleet.nodes.values())
        self.demand.forget_idle(now)

    def _by_cost(
        self,
        verdict: Verdict,
        runners: list[Runner],
        now: float,
        rng: Random,
        is_impatient: bool,
        is_preview: bool,
    ) -> None:
        if len(runners) == 1:
            options = [self._prices.price(runners[0], verdict.work, now)]
        else:
            at_least = MAX_OPTIONS if is_preview else 2
            options = self._priced(runners, verdict.work, now, rng, at_least)
        if is_impatient or self._explorer.is_due:
            self._look_around(options, runners, verdict.work, now, rng)
        best = pick(options, rng)
        verdict.options, verdict.best = options, best
        if not best.obstacle:
            verdict.chosen, verdict.rule = best, _COST
            if not is_preview:
                self._try_out(verdict, runners, options, best, now)
        elif is_impatient:
            free = [option for option in options if option.can_start]
            if free:
                verdict.best = verdict.chosen = free[0]
                verdict.rule = Rule.PATIENCE

    def _try_out(
        self,
        verdict: Verdict,
        runners: list[Runner],
        options: list[Priced],
        best: Priced,
        now: float,
    ) -> None:
        """Send a request elsewhere than to the best node, if there is something to be found out."""
        if len(runners) > 1 or best.runner.is_on_trial:
            other = self._trial(verdict.request, verdict.work, best, now)
            if other is not None:
                verdict.best = verdict.chosen = other
                verdict.rule = Rule.TRIAL
                return
        other = self._explorer.candidate(options, best, now)
        if other is not None:
            verdict.best = verdict.chosen = other
            verdict.rule = Rule.EXPLORE

    def _trial(self, request: RouteRequest, work: Work, best: Priced, now: float) -> Priced | None:
        """Return a runner that has to show that it does its work again, if it can start now.

        Urgent requests are spared; what fails there is tried again elsewhere.
        """
        if request.priority > TRIAL_PRIORITY:
            return None
        for runner in self.fleet.on_trial(request.model):
            if runner.node.id in request.excluded or runner.node.id in request.avoided:
                continue
            priced = self._prices.price(runner, work, now)
            if priced.can_start and priced.total_s <= WORSE_AT_MOST * best.total_s:
                return priced
        return None

    def _priced(
        self, runners: list[Runner], work: Work, now: float, rng: Random, at_least: int
    ) -> list[Priced]:
        prices = self._prices
        return by_cost(
            runners,
            self.fleet.bounds_s(runners, work),
            lambda runner: prices.price(runner, work, now),
            rng,
            at_least=at_least,
        )

    def _look_around(
        self, options: list[Priced], runners: list[Runner], work: Work, now: float, rng: Random
    ) -> None:
        """Price nodes beside the best ones: all, or of very many a random few."""
        priced = {option.runner.node.id for option in options}
        others = rng.sample(runners, min(len(runners), LOOKED_AROUND))
        options += [self._prices.price(r, work, now) for r in others if r.node.id not in priced]
        options.sort(key=total_s)

    def _by_rank(
        self, verdict: Verdict, runners: Sequence[Runner], now: float, rng: Random
    ) -> None:
        runner = by_rank(self.policy, runners, rng)
        if runner is None:
            verdict.typical = self._prices.price(runners[0], verdict.work, now)
            return
        priced = self._prices.price(runner, verdict.work, now)
        verdict.options = (priced,)
        verdict.best = verdict.chosen = priced
        verdict.rule = Rule.POLICY
