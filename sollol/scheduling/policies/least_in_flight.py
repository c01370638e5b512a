"""The node with the fewest requests, whatever it has in memory."""

from sollol.scheduling.policies.policy import Policy

POLICY = Policy("least_in_flight", lambda runner: (runner.node.in_flight,))
