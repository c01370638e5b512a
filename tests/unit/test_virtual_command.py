"""``python -m sollol.bench.virtual``."""

from pathlib import Path

import pytest

from sollol.bench.virtual.command import main

POLICY = "resident_first"
SMALL = ["--requests", "60", "--seeds", "1", "--policies", f"{POLICY},direct_round_robin"]
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:17:{second:02}.0,400,20\n" for second in range(60)
)


def test_it_compares_policies(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SMALL, "--rate", "0.5"])
    said = capsys.readouterr().out
    assert "heterogeneous, synthetic, 0.500 requests a second, 1 seeds" in said
    for name in (POLICY, "direct_round_robin"):
        assert f"\n{name} " in said


def test_it_finds_the_load(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SMALL, "--fleet", "homogeneous", "--carry", POLICY])
    assert f"{POLICY} just carries" in capsys.readouterr().out


def test_it_replays_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(AZURE)
    trace = ["--workload", "azure", "--trace", str(path)]
    main([*SMALL, *trace, "--rate", "0.5", "--start-s", "10"])
    assert "heterogeneous, azure" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--workload", "azure"], ["--trace", "x"]])
def test_a_trace_goes_with_its_workload(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(wrong)
    assert "--trace FILE goes with" in capsys.readouterr().err
