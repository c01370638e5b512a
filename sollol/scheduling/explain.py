"""Decisions as records of what was compared, and as sentences for people."""

from collections.abc import Sequence

from sollol.scheduling.decision import MAX_OPTIONS, Decision, Obstacle, Option, Rule
from sollol.scheduling.verdict import Verdict
from sollol.scheduling.work import Priced
from sollol.wire.names import shown_key


def decision(verdict: Verdict, now: float) -> Decision:
    """Return the record of a decision."""
    request, work, chosen = verdict.request, verdict.work, verdict.chosen
    shown = verdict.options
    if len(shown) > MAX_OPTIONS:
        shown = _shown(verdict)
    return Decision(
        request.id,
        request.model,
        now,
        verdict.policy,
        "" if chosen is None else chosen.runner.node.id,
        verdict.rule,
        tuple(map(option, shown)),
        verdict.considered,
        request.priority,
        work.prompt_tokens,
        work.output_tokens,
    )


def _shown(verdict: Verdict) -> Sequence[Priced]:
    """Return the cheapest options; the chosen one is among them, of however many that are alike."""
    shown, chosen = verdict.options[:MAX_OPTIONS], verdict.chosen
    if chosen is None or any(priced is chosen for priced in shown):
        return shown
    return [*shown[:-1], chosen]


def option(priced: Priced) -> Option:
    """Return the record of what was compared."""
    runner = priced.runner
    node = runner.node
    return Option(
        node.id,
        priced.terms,
        runner.is_resident and not priced.loads,
        len(runner.running) < runner.slots,
        node.in_flight,
        priced.obstacle,
        "" if priced.other is None else priced.other.model,
    )


def sentence(decision: Decision) -> str:
    """Return why a request went where it went, in one sentence."""
    if not decision.options:
        return "no node could be compared"
    best = decision.options[0]
    chosen = next((o for o in decision.options if o.node_id == decision.chosen), best)
    seconds = f"{chosen.terms.own_s:.2f} s" if chosen.terms else "an unknown time"
    match decision.rule:
        case Rule.WAIT:
            return (
                f"waits for {best.node_id}, which has the answer soonest all the same: {why(best)}"
            )
        case Rule.CALLER:
            return "waits: its caller has as many requests in flight as it may"
        case Rule.POLICY:
            return f"{decision.chosen} is next by policy {decision.policy}; predicted {seconds}"
        case Rule.EXPLORE:
            return (
                f"{decision.chosen} is tried: it may be faster than its {seconds} by what is known"
            )
        case Rule.TRIAL:
            return f"{decision.chosen} failed lately and shows with this whether it works again"
        case Rule.PATIENCE:
            return f"{decision.chosen} was free after a longer wait than predicted; {seconds}"
    return _by_cost(decision, chosen, seconds)


def why(option: Option) -> str:
    """Return why a request could not be sent to a node at once; empty if it could."""
    return _WHY[option.obstacle].format(model=shown_key(option.other_model))


_WHY = {
    Obstacle.NONE: "",
    Obstacle.FULL: "its slots are taken or spoken for",
    Obstacle.LOADING: "it is loading {model}",
    Obstacle.BUSY: "{model} is in use there and would have to leave",
    Obstacle.WANTED: "{model} would have to leave, is wanted and was loaded lately",
    Obstacle.KEPT: "{model} would have to leave and is kept for more urgent requests",
    Obstacle.CLAIMED: "room is being made there for {model}",
    Obstacle.URGENT: "a more urgent request runs there",
}


def _by_cost(decision: Decision, chosen: Option, seconds: str) -> str:
    if decision.considered == 1:
        return f"{decision.chosen} is the only node for it; predicted {seconds}"
    others = [o for o in decision.options if o.node_id != decision.chosen and o.terms]
    if not others or chosen.terms is None:
        return f"{decision.chosen} has the answer soonest, in {seconds}"
    other = others[0]
    assert other.terms is not None
    more = other.terms.total_s - chosen.terms.total_s
    return (
        f"{decision.chosen} has the answer soonest, in {seconds}; "
        f"{other.node_id} would cost {more:.2f} s more"
    )
