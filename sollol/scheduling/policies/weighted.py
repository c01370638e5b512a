"""Requests in proportion to the nodes' weights, a setting."""

from sollol.scheduling.policies.policy import Policy

POLICY = Policy("weighted", lambda runner: ((runner.node.in_flight + 1) / runner.node.view.weight,))
