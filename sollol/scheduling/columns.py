"""The numbers of a model's runners side by side, to compare hundreds of nodes in microseconds.

Objects of a thousand nodes are spread over the memory; to read one number of each takes several
times as long as to read them from a list. Runners write here what changes about them.
"""

from sollol.scheduling.state import Crowds, Runner
from sollol.scheduling.work import Work


class Columns:
    """The runners of one model that may be given requests; the lists are in step.

    Attributes:
        runners: one on each node.
        crowd_at: where in ``crowds`` the node's crowding is.
        decode_s, prefill_s: seconds for a token.
        load_s: seconds for the load, 0 of what is in memory.
    """

    def __init__(self, crowds: Crowds) -> None:
        self.runners: list[Runner] = []
        self._crowds = crowds
        self._crowd_at: list[int] = []
        self._decode_s: list[float] = []
        self._prefill_s: list[float] = []
        self._load_s: list[float] = []

    def add(self, runner: Runner) -> None:
        """Append a runner; it keeps its numbers up to date."""
        runner.columns[self] = len(self.runners)
        self.runners.append(runner)
        self._crowd_at.append(runner.node.crowd_at)
        self._decode_s.append(0.0)
        self._prefill_s.append(0.0)
        self._load_s.append(0.0)
        self.update(runner)

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
        output, prompt, crowds = work.output_tokens, work.prompt_tokens, self._crowds
        return [
            output * decode_s * crowds[at] + prompt * prefill_s + load_s
            for at, decode_s, prefill_s, load_s in zip(
                self._crowd_at, self._decode_s, self._prefill_s, self._load_s, strict=True
            )
        ]
