"""The fault matrix: each fault on each route, through the real gateway over real sockets.

Of two nodes that have the model, the one that is chosen first has the fault. What failed before its
first byte is answered by the other; what breaks off later ends in an error record; nothing hangs
past its timeout, and nothing is left behind.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import FAULT_MATRIX
from tests.faults.expected import CASES, Case, Route, Seen
from tests.faults.rig import ANSWERED_S, Heard, Names, Pair, Rig, a_rig, open_files
from tests.gateways import assert_idle, wait_for

pytestmark = pytest.mark.sim

Record = Callable[[str, object], None]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_a_fault(
    case: Case, record_property: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(monkeypatch)
    files = open_files()
    async with a_rig(case) as rig:
        for _ in range(case.before):
            await asyncio.gather(*(pair.ask(rig.client, rig.running.url) for pair in rig.pairs))
        for pair in rig.pairs:
            await pair.break_first(case.fault, is_cold=case.is_cold)
        names.are_known = case.fault is not None
        async with asyncio.timeout(ANSWERED_S):
            seen = await asyncio.gather(*(_see(case, rig, pair) for pair in rig.pairs))
        names.are_known = True
        await assert_idle(rig.running)
    await wait_for(lambda: len(open_files()) <= len(files))
    found = {}
    for pair, outcome in zip(rig.pairs, seen, strict=True):
        column = f"{pair.route.shown} {'stream' if pair.stream else 'whole'}"
        expected = case.seen(pair.route, stream=pair.stream)
        cell = str(outcome) if outcome == expected else "WRONG"
        record_property(FAULT_MATRIX, (CASES.index(case), case.name, column, cell))
        found[column] = str(outcome), str(expected)
    assert {column: is_so for column, (is_so, _) in found.items()} == {
        column: expected for column, (_, expected) in found.items()
    }


async def _see(case: Case, rig: Rig, pair: Pair) -> str:
    """Send a request and say what came of it; what fits none is described."""
    heard = await pair.ask(rig.client, rig.running.url)
    right = await pair.ask(rig.client, pair.other.url)
    return _seen(case, pair, heard, right) or _described(heard)


def _seen(case: Case, pair: Pair, heard: Heard, right: Heard) -> Seen | None:
    if heard.answer.status_code != 200 or not pair.has_struck(case.fault):
        return None
    attempts = heard.answer.headers["x-sollol-attempts"]
    answered_by = heard.answer.headers["x-sollol-node"]
    is_first = answered_by == pair.first_url.removeprefix("http://")
    if case.is_cold:  # the one that is asked first has the fault
        is_first = attempts == "1"
    if heard.is_cut:
        return Seen.CUT_OFF if is_first and not pair.is_streamed else None
    if heard.text == right.text and _is_whole(pair, heard):
        if (is_first, attempts) == (True, "1"):
            return Seen.UNHARMED
        # A third: the time-outs are so short that a busy machine may let a healthy node exceed one.
        return Seen.RETRIED if not is_first and attempts in {"2", "3"} else None
    if not is_first or not pair.is_streamed:
        return None
    if None in heard.records:
        return Seen.AS_IT_CAME if _is_whole(pair, heard) else None
    *before, last = heard.records
    said = right.text.startswith(heard.text)
    return Seen.ERROR_RECORD if said and before and _is_error(pair, last) else None


def _is_whole(pair: Pair, heard: Heard) -> bool:
    if not pair.is_streamed:
        return len(heard.records) == 1
    last: Any = heard.records[-1]
    return last == "[DONE]" if pair.route is Route.V1_CHAT else bool(last.get("done"))


def _is_error(pair: Pair, record: Any) -> bool:
    if not isinstance(record, dict) or list(record) != ["error"]:
        return False
    error = record["error"]
    if pair.route is Route.V1_CHAT:
        return bool(error["message"]) and error["type"] == "api_error"
    return isinstance(error, str) and bool(error)


def _described(heard: Heard) -> str:
    headers = heard.answer.headers
    attempts = headers.get("x-sollol-attempts")
    end = heard.body[-80:]
    return f"{heard.answer.status_code} from {headers.get('x-sollol-node')}, {attempts=}, {end!r}"


def test_the_matrix_is_wide_enough() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 24
    assert all(case.reason for case in CASES)
