"""The planted bugs can be planted, and a few of them are caught. All are tried by ``make planted``."""

from collections import Counter
from pathlib import Path

import pytest

from tests.planted.bugs import Bug, all_bugs
from tests.planted.plant import NotFound, make_copy, planted, read, try_bug


@pytest.mark.parametrize("bug", all_bugs(), ids=lambda bug: bug.name)
def test_a_bug_can_be_planted_and_is_still_python(bug: Bug) -> None:
    compile(planted(bug, read(bug)), bug.file, "exec")


def test_there_are_many_bugs_of_different_names() -> None:
    names = Counter(bug.name for bug in all_bugs())
    assert len(names) >= 40
    assert set(names.values()) == {1}


def test_a_bug_whose_place_is_gone_is_not_passed_over() -> None:
    bug = Bug("gone", "gateway/forward.py", "no such text", "", "nothing")
    with pytest.raises(NotFound, match="gone: its text is 0 times"):
        planted(bug, read(bug))


def test_a_bug_is_caught_and_what_is_none_is_not(tmp_path: Path) -> None:
    make_copy(tmp_path)
    by_name = {bug.name: bug for bug in all_bugs()}
    assert try_bug(by_name["slot_is_kept"], tmp_path, 5).is_caught
    harmless = Bug(
        "harmless", "gateway/budget.py", "WINDOW_S = 10.0", "WINDOW_S = 10.00", "nothing"
    )
    assert not try_bug(harmless, tmp_path, 2).is_caught
