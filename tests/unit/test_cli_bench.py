"""``sollol bench``."""

from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from sollol.bench.balance import DIRECT_POLICIES
from sollol.bench.live.processes import NO_RETRIES
from sollol.cli.bench import _Progress, bench
from sollol.cli.main import main
from sollol.scheduling.policies import POLICIES

SMALL = ["bench", "--virtual", "--requests", "60", "--rounds", "1"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    return int(ended.value.code or 0)


def test_it_compares_and_names_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SMALL, "--rate", "0.5", "--out", str(tmp_path)) == 0
    said = capsys.readouterr()
    assert "0.50 requests a second, on a virtual clock" in said.out
    assert "\nfastest " in said.out
    assert "round 1 of 1, fastest: 60 requests" in said.err
    for name in ("report.md", "report.html", "report.json"):
        assert str(tmp_path / name) in said.out
        assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--workload", "azure"], "--trace FILE goes with"),
        (["--policies", "best", "--rate", "1"], "no such policy: best"),
        (["--workload", "azure", "--trace", "/none"], "the trace is at https://github.com/Azure/"),
        (["--workload", "azure", "--trace", "/"], "Is a directory"),
        (["--trace", "x"], "mooncake (https://"),
        (["--carry", "best"], "no such policy: best"),
        (["--rate", "1", "--out", "/proc/report"], "--out /proc/report: No such file"),
    ],
)
def test_what_cannot_be_done_is_said(
    wrong: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SMALL, *wrong) == 2
    assert words in capsys.readouterr().err


def test_it_finds_the_load_that_a_policy_carries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    carry = ["--fleet", "homogeneous", "--carry", "random", "--policies", "random"]
    assert run(*SMALL, *carry, "--out", str(tmp_path)) == 0
    assert "requests a second, on a virtual clock" in capsys.readouterr().out


def test_it_replays_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"2023-11-16 18:17:{second:02}.0,400,20" for second in range(60)]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]))
    trace = ["--workload", "azure", "--trace", str(path), "--start", "10", "--rate", "0.5"]
    assert run(*SMALL, *trace, "--policies", "random", "--out", str(tmp_path)) == 0
    assert "heterogeneous fleet, azure" in capsys.readouterr().out


def test_its_help_names_every_policy() -> None:
    option = get_args(get_type_hints(bench, include_extras=True)["policies"])[1]
    alone = ", ".join(DIRECT_POLICIES)
    own = ", ".join(POLICIES)
    text = f"Comma-separated: {own}, each also with {NO_RETRIES} behind it; and without a gateway {alone}."
    assert option.help == text  # typed out there: importing the policies would slow every command


def test_a_report_that_cannot_be_written_is_said_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert run(*SMALL, "--rate", "1", "--policies", "random", "--out", str(file)) == 2
    assert capsys.readouterr().err == f"--out {file}: File exists\n"


def test_over_http_it_says_how_long_it_will_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = ["bench", "--requests", "20", "--rounds", "1", "--time-scale", "0.01", "--rate", "1"]
    assert run(*real, "--policies", "direct_round_robin", "--out", str(tmp_path)) == 0
    assert "over HTTP: 1 runs of 0 s or more" in capsys.readouterr().out


def test_on_a_terminal_it_counts_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress = _Progress()
    progress("a run", 1, count=2)
    progress("a run", 2, count=2)
    assert capsys.readouterr().err == "\ra run: 1/2\ra run: 2/2\n"
