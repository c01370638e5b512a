"""The node that will have the answer soonest, busy ones included (``cost.py``). The default."""

from sollol.scheduling.policies.policy import Policy

POLICY = Policy("fastest", None)
