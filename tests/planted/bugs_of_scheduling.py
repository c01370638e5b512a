"""Bugs in the scheduler, its queue, its leases, and who may be given what."""

from tests.planted.bugs import Bug

_SCHEDULER = "scheduling/scheduler.py"
_QUEUE = "scheduling/queue.py"
_LEASES = "scheduling/leases.py"
_FLEET = "scheduling/fleet.py"
_STATE = "scheduling/state.py"

BUGS = (
    Bug(
        "granted_stays_in_the_queue",
        _SCHEDULER,
        "            self._queue.remove(request.id)\n            self._note_queue()\n            unplan(waiting)",
        "            self._note_queue()\n            unplan(waiting)",
        "who waited is granted a slot twice",
    ),
    Bug(
        "expired_stays_in_the_queue",
        _SCHEDULER,
        "        for waiting in self._queue.expired(now):\n            self.cancel(waiting.request.id)\n",
        "        for waiting in self._queue.expired(now):\n",
        "who was told that it took too long still waits",
    ),
    Bug(
        "plans_of_who_left_stay",
        _SCHEDULER,
        "            return False\n        unplan(waiting)\n",
        "            return False\n",
        "a node seems to be waited for by somebody gone",
    ),
    Bug(
        "aborted_load_is_done",
        _SCHEDULER,
        "        elif not runner.running and (runner.ready_at > now or (held.loads and has_failed)):\n"
        "            runner.unload()",
        "        else:\n            runner.ready_at = min(runner.ready_at, now)",
        "a model whose load was broken off seems to be in memory",
    ),
    Bug(
        "lease_is_not_given_back",
        _SCHEDULER,
        "        held = self._leases.give_back(lease, now)\n",
        "        held = self._leases.give_back(lease, now) if measured else None\n",
        "each answer that is not whole costs a slot",
    ),
    Bug(
        "empty_rows_stay",
        _QUEUE,
        "        if not entries:\n            del kinds[kind]\n",
        "",
        "the queue remembers those who left",
    ),
    Bug(
        "nobody_expires",
        _QUEUE,
        "if w.request.expires_at <= now]",
        "if w.request.expires_at <= now - 5.0]",
        "a request is sent on after its deadline",
    ),
    Bug(
        "wrong_one_is_removed",
        _QUEUE,
        "del entries[bisect_left(entries, waiting)]",
        "del entries[0]",
        "somebody else is taken out of the queue",
    ),
    Bug(
        "node_count_is_kept",
        _LEASES,
        "        _decrement(self._in_flight, lease.node_id)\n",
        "",
        "a node never becomes idle",
    ),
    Bug(
        "caller_count_is_kept",
        _LEASES,
        "        _decrement(self._by_caller, held.request.caller)\n",
        "",
        "a caller never gets its share back",
    ),
    Bug(
        "slot_is_kept",
        _LEASES,
        "            runner.running.pop(lease.id, None)\n",
        "",
        "slots are used up",
    ),
    Bug(
        "trial_is_for_all",
        _FLEET,
        "        if columns.on_trial and request.takes_slot:",
        "        if columns.on_trial < 0:",
        "a node on trial gets all it has slots for",
    ),
    Bug(
        "exclusion_is_not_looked_at",
        _FLEET,
        "        if request.excluded:\n            excluded = request.excluded\n",
        "        if request.excluded and columns.is_mixed:\n            excluded = request.excluded\n",
        "the node that failed is tried again at once",
    ),
    Bug(
        "avoidance_is_not_looked_at",
        _FLEET,
        "        if request.avoided:\n",
        "        if request.avoided and columns.is_mixed:\n",
        "who failed on a node goes there again though another is up",
    ),
    Bug(
        "ejected_models_stay",
        _FLEET,
        "elif before.state is not view.state or before.limited != view.limited:",
        "elif before.state is not view.state:",
        "a model that is ejected on a node gets requests there",
    ),
    Bug(
        "ejected_models_are_open",
        _FLEET,
        "if node.is_open and node.view.limited.get(runner.key) is not NodeState.EJECTED:",
        "if node.is_open:",
        "a model that is ejected on a node gets requests there",
    ),
    Bug(
        "there_is_no_last_resort",
        _FLEET,
        "            self._resort_to_any(model)\n",
        "            pass\n",
        "with all nodes ejected nothing is tried",
    ),
    Bug(
        "last_resort_stays",
        _FLEET,
        "                for other in self._last_resort.pop(model, ()):\n",
        "                for other in self._last_resort.get(model, [])[:0]:\n",
        "ejected nodes get requests though another is back",
    ),
    Bug(
        "trial_of_a_model_is_none",
        _FLEET,
        "is_on_trial = node.is_on_trial or runner.key in node.view.limited",
        "is_on_trial = node.is_on_trial",
        "a model on trial gets all it has slots for",
    ),
    Bug(
        "trial_is_for_each_model",
        _STATE,
        "held = self.node.held if self.node.is_on_trial else self.running",
        "held = self.running",
        "a node on trial gets one request for each model",
    ),
    Bug(
        "one_slot_more",
        _STATE,
        "return len(self.running) >= self.slots",
        "return len(self.running) > self.slots",
        "a node gets more than it has slots for",
    ),
    Bug(
        "closed_nodes_are_open",
        _STATE,
        "        self.is_open = view.is_open\n",
        "        self.is_open = view.state is not NodeState.UNHEALTHY\n",
        "ejected nodes get requests",
    ),
)
