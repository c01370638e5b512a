"""Each node in turn: the one that has gone longest without a request."""

from sollol.scheduling.policies.policy import Policy

POLICY = Policy("round_robin", lambda runner: (runner.node.last_grant,))
