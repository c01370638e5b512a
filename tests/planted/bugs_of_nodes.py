"""Bugs in the circuits and in what is told of nodes."""

from tests.planted.bugs import Bug

_HEALTH = "nodes/health.py"
_REGISTRY = "nodes/registry.py"

BUGS = (
    Bug(
        "trial_may_fail",
        _HEALTH,
        "if self.state is NodeState.HALF_OPEN or self._failures",
        "if self._failures",
        "a node on trial may fail three times",
    ),
    Bug(
        "trial_ends_for_good",
        _HEALTH,
        "            self._failures = self._limits.eject_after - 1.0\n",
        "",
        "a node that breaks after its first byte may fail three times again",
    ),
    Bug(
        "ejection_never_ends",
        _HEALTH,
        "if self.state is NodeState.EJECTED and now >= self.until:",
        "if self.state is NodeState.EJECTED and now < 0:",
        "what was ejected once gets nothing any more",
    ),
    Bug(
        "ejection_does_not_grow",
        _HEALTH,
        "return min(max_s, base_s * 2.0 ** min(ejections - 1, 32))",
        "return min(max_s, base_s)",
        "a node that flaps is tried as often as ever",
    ),
    Bug(
        "ejection_ends_early",
        _HEALTH,
        "seconds * self._rng.uniform(1.0 - JITTER, 1.0 + JITTER)",
        "seconds * self._rng.uniform(0.0, JITTER)",
        "an ejection lasts a fifth of its time",
    ),
    Bug(
        "trial_never_succeeds",
        _HEALTH,
        "        self.state = NodeState.HEALTHY\n        self._failures",
        "        self._failures",
        "no circuit ever closes",
    ),
    Bug(
        "one_failure_ejects",
        _HEALTH,
        "self._failures >= self._limits.eject_after",
        "self._failures >= 1",
        "a hiccup ejects a node",
    ),
    Bug(
        "three_failures_do_not_eject",
        _HEALTH,
        "self._failures >= self._limits.eject_after",
        "self._failures >= 3 * self._limits.eject_after",
        "a broken node is given requests for long",
    ),
    Bug(
        "failures_are_not_forgotten",
        _HEALTH,
        "        self.state = NodeState.HEALTHY\n        self._failures = 0.0\n\n\nclass Health",
        "        self.state = NodeState.HEALTHY\n\n\nclass Health",
        "three failures in a week eject a node",
    ),
    Bug(
        "refused_is_a_hiccup",
        _HEALTH,
        "        self._was_refused = True\n        self.is_up = False\n",
        "        self._was_refused = True\n",
        "a node that is not there gets requests",
    ),
    Bug(
        "silence_counts_six_times",
        _HEALTH,
        "self._circuit.failed(now, 0.5 if blame is Blame.HALF else 1.0)",
        "self._circuit.failed(now, 3.0 if blame is Blame.HALF else 1.0)",
        "one slow answer ejects a node",
    ),
    Bug(
        "good_probe_is_not_enough",
        _HEALTH,
        "        if self._successes >= self._limits.rise and not self.is_up:\n",
        "        if self._successes > 9 * self._limits.rise and not self.is_up:\n",
        "a node that is back is not noticed for long",
    ),
    Bug(
        "time_stands_still",
        _REGISTRY,
        "            if node.health.is_troubled or node.view.limited:\n",
        "            if node.view.limited and not node.view.models:\n",
        "no ejection ever ends",
    ),
    Bug(
        "success_is_not_passed_on",
        _REGISTRY,
        "        node.health.request_succeeded(runner, self._clock())\n        self._update(node, node.view)\n",
        "        node.health.request_succeeded(runner, self._clock())\n",
        "the scheduler does not hear that a trial went well",
    ),
    Bug(
        "failure_is_not_passed_on",
        _REGISTRY,
        "            node.health.request_failed(blame, runner, error, self._clock())\n"
        "            self._update(node, node.view)\n",
        "            node.health.request_failed(blame, runner, error, self._clock())\n",
        "the scheduler does not hear that a node is ejected",
    ),
    Bug(
        "limited_models_are_not_told",
        _REGISTRY,
        "limited=health.limited(), last_error",
        "limited=node.view.limited, last_error",
        "the scheduler does not hear that a model is ejected",
    ),
)
