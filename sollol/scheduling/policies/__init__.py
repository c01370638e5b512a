"""One small file for each way of choosing a node."""

from sollol.scheduling.policies import (
    fastest,
    least_in_flight,
    random,
    resident_first,
    round_robin,
    weighted,
)
from sollol.scheduling.policies.policy import Policy

POLICIES: dict[str, Policy] = {
    "fastest": fastest.POLICY,
    "least_in_flight": least_in_flight.POLICY,
    "resident_first": resident_first.POLICY,
    "round_robin": round_robin.POLICY,
    "random": random.POLICY,
    "weighted": weighted.POLICY,
}
"""Every policy by the name that the setting ``scheduling.policy`` takes."""
