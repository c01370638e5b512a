"""Any node, all as likely."""

from sollol.scheduling.policies.policy import Policy

POLICY = Policy("random", lambda _: ())
