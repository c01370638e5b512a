"""A node that has the model in memory, else the one with the fewest requests."""

from sollol.scheduling.policies.policy import Policy

POLICY = Policy("resident_first", lambda runner: (not runner.is_resident, runner.node.in_flight))
