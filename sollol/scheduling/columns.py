"""The numbers of a model's runners side by side, to compare hundreds of nodes in microseconds.

Objects of a thousand nodes are spread over the memory; to read one number of each takes several
times as long as to read them from an array. Runners write here what changes about them.
"""

from array import array

from sollol.scheduling.state import Burdens, Runner
from sollol.scheduling.work import Work

Ability = tuple[frozenset[str], int | None]


class Columns:
    """The runners of one model that may be given requests; the lists are in step.

    Attributes:
        runners: one on each node.
        burden_at: where in ``burdens`` the node's is.
        decode_s, prefill_s: seconds for a token.
        load_s: seconds for the load, 0 of what is in memory.
    """

    def __init__(self, burdens: Burdens) -> None:
        self.runners: list[Runner] = []
        self._burdens = burdens
        self._burden_at = array("l")
        self._decode_s = array("d")
        self._prefill_s = array("d")
        self._load_s = array("d")
        self._abilities: dict[Ability, int] = {}
        self.on_trial = 0
        """How many of the runners are on trial; one that begins or ends that is out meanwhile."""

    def add(self, runner: Runner) -> None:
        """Append a runner; it keeps its numbers up to date."""
        runner.columns[self] = len(self.runners)
        self.runners.append(runner)
        self._burden_at.append(runner.node.burden_at)
        self._decode_s.append(0.0)
        self._prefill_s.append(0.0)
        self._load_s.append(0.0)
        self.update(runner)
        self.on_trial += runner.is_on_trial
        ability = _ability(runner)
        self._abilities[ability] = self._abilities.get(ability, 0) + 1

    def remove(self, runner: Runner) -> None:
        """Take a runner out; the last one comes in its place."""
        at = runner.columns.pop(self)
        self.on_trial -= runner.is_on_trial
        last = self.runners.pop()
        if last is not runner:
            self.runners[at] = last
            last.columns[self] = at
        for numbers in (self._decode_s, self._prefill_s, self._load_s):
            numbers[at] = numbers[-1]
            numbers.pop()
        self._burden_at[at] = self._burden_at[-1]
        self._burden_at.pop()
        ability = _ability(runner)
        self._abilities[ability] -= 1
        if not self._abilities[ability]:
            del self._abilities[ability]

    @property
    def is_mixed(self) -> bool:
        """Whether not all of the runners can do the same."""
        return len(self._abilities) > 1

    def update(self, runner: Runner) -> None:
        """Take over a runner's numbers."""
        at = runner.columns[self]
        self._decode_s[at] = runner.decode_s
        self._prefill_s[at] = runner.prefill_s
        self._load_s[at] = 0.0 if runner.is_resident else runner.load_s

    def bounds_s(self, work: Work) -> list[float]:
        """Return what a request costs on each runner at least, in seconds.

        What is remembered of its conversation is left out: see ``affinity.py`` for where it is.
        """
        output, prompt, burdens = work.output_tokens, work.prompt_tokens, self._burdens
        return [
            output * decode_s * burdens[at] + prompt * prefill_s + load_s
            for at, decode_s, prefill_s, load_s in zip(
                self._burden_at, self._decode_s, self._prefill_s, self._load_s, strict=True
            )
        ]


def _ability(runner: Runner) -> Ability:
    """Return what decides which requests a runner can serve; it changes only while it is out."""
    return runner.capabilities, runner.context_length
