"""A scheduler for each policy that can be compared."""

from random import Random

from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.policies import POLICIES
from sollol.scheduling.scheduler import Scheduler

QUEUE_MAX_LENGTH = 4096
"""Above the setting's default, so that a comparison is about waiting and not about refusing."""


def make_scheduler(policy: str, rng: Random) -> Scheduler:
    """Return a scheduler without history.

    Raises:
        ValueError: there is no such policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"no such policy: {policy}; there are {', '.join(POLICIES)}")
    return Scheduler(SchedulerLimits(queue_max_length=QUEUE_MAX_LENGTH, policy=policy), rng)
