"""The limits that the scheduler is held to: how they are checked and written."""

import pytest
import typer

from sollol.bench.common.verdicts import Verdict
from sollol.bench.scheduler_limits import CHECKS, _ratio, main, render


def test_every_check_comes_to_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    main(quick=True)
    said = capsys.readouterr()
    assert said.out.count("\n| ") >= 2 * len(CHECKS)
    assert said.err.count("\n") == len(CHECKS)


def test_a_quick_run_is_not_written() -> None:
    with pytest.raises(typer.BadParameter, match="whole run"):
        main(write=True, quick=True)


def test_a_ratio_holds_up_to_its_limit() -> None:
    assert _ratio("a", 1.0, 2.0, 0.5).holds
    assert not _ratio("a", 1.1, 2.0, 0.5).holds
    assert _ratio("nothing to nothing", 0.0, 0.0, 0.2).holds
    assert not _ratio("something to nothing", 1.0, 0.0, 0.2).holds


def test_the_page_says_what_does_not_hold() -> None:
    page = render([Verdict("one", "<= 1x", "0.5x", True), Verdict("two", "<= 1x", "2x", False)])
    assert "| one | <= 1x | 0.5x | yes |" in page
    assert "| two | <= 1x | 2x | **no** |" in page
