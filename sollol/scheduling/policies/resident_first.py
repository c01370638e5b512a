"""A node that has the model in memory, else the one with the least work."""

from collections.abc import Sequence
from random import Random

from sollol.scheduling.decision import Candidate


def choose(candidates: Sequence[Candidate], rng: Random) -> Candidate:
    """Return the best of ``candidates``, of which there is at least one.

    A model load costs seconds to minutes and a busy node a fraction of that, so residency goes
    before load. Ties are broken at random: by position, the first node would get all the traffic.
    """
    if len(candidates) == 1:
        return candidates[0]
    best = min(_rank(candidate) for candidate in candidates)
    return rng.choice([candidate for candidate in candidates if _rank(candidate) == best])


def _rank(candidate: Candidate) -> tuple[bool, int]:
    return (not candidate.is_resident, candidate.in_flight)
