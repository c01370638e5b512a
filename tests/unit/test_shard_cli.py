"""``sollol shard``: what it prints and how it exits."""

import json
from pathlib import Path
from typing import Any

import pytest

from sollol.bench.gguf_files import write_gguf
from sollol.bench.model_kinds import KINDS, Size, dense
from sollol.cli.main import main
from sollol.cli.shard_checks import check_worker
from sollol.cli.shard_workers import print_workers, told_workers
from sollol.settings import ShardingSettings, WorkerSettings
from sollol.sharding.fleet import Seen
from sollol.sharding.links import MeasuredLink
from sollol.sharding.rpc import Probe

TWO = "--set=sharding.workers=127.0.0.2=0.055,127.0.0.1:9000=0.055"


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_gguf(Path("m.gguf"), dense(Size(layers=4)))


def run(*arguments: str) -> int:
    return exit_code("shard", *arguments)


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    code = ended.value.code
    return code if isinstance(code, int) else 0


def test_a_plan_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "m.gguf", "--context", "2048", TWO) == 0
    out = capsys.readouterr().out
    assert "m: llama, 4 layers and the output" in out
    assert "1 x 2048 tokens of context as f16" in out
    assert "127.0.0.2:50052" in out
    assert "127.0.0.1:9000" in out
    assert ", output" in out
    assert "expect       2 workers, ~" in out
    assert "s once workers cache it)" in out
    assert "llama-server --n-gpu-layers 5 --tensor-split " in out


def test_a_plan_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "m.gguf", "--slots", "2", "--cache-type", "q8_0", "--json",
               "--set=sharding.workers=127.0.0.1=1", "--set=sharding.memory_gb=2") == 0  # fmt: skip
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["model"], told["slots"], told["cache_type"]) == ("m", 2, "q8_0")
    assert told["coordinator"]["name"] == "this machine"
    (share,) = told["shares"]
    assert (share["first_layer"], share["layers"], share["has_output"]) == (0, 4, True)
    assert share["needs_bytes"] <= share["memory_bytes"] == 1 << 30
    assert told["alternatives"] == []
    assert told["notes"] == []
    (link,) = told["links"]
    assert (link["worker"], link["round_trip_is"], link["bytes_per_s_is"]) == (
        "127.0.0.1:50052", "assumed", "assumed")  # fmt: skip
    assert "Connection refused" in link["error"]


def test_notes_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    write_gguf(Path("hybrid.gguf"), KINDS["hybrid"]())
    assert run("plan", "hybrid.gguf", "--set=sharding.workers=127.0.0.2=0.1,127.0.0.3=0.1") == 0
    assert "recurrent states" in capsys.readouterr().out


def test_what_does_not_fit_names_ways_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "m.gguf", "--context", "32768", TWO, "--set=sharding.memory_gb=1") == 1
    error = capsys.readouterr().err
    assert "The model does not fit: with 1 x 32768 tokens" in error
    assert "127.0.0.2:50052 may take 59.1 MB" in error
    assert "\nOr with " in error


def test_the_worker_of_the_gateway_counts(capsys: pytest.CaptureFixture[str]) -> None:
    own = "--set=sharding.local_worker_gb=1"
    assert run("plan", "m.gguf", own) == 0
    out = capsys.readouterr().out
    assert "127.0.0.1:*" in out
    assert "link to 127.0.0.1:*: 0.05 ms assumed, 20 Gbit/s assumed" in out
    assert run("plan", "m.gguf", own, "--json", "--set=sharding.workers=127.0.0.2=0.055") == 0
    assert json.loads(capsys.readouterr().out)["shares"][0]["worker"] == "127.0.0.1:*"
    assert run("workers", own) == 0
    out = capsys.readouterr().out
    assert "gateway's" in out
    assert "127.0.0.1:*: the gateway runs it on this machine" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["m.gguf"], 2, "No worker is known"),
        (["m.gguf", "--set=sharding.workers=8.8.8.8=9"], 2, "8.8.8.8 is a public address"),
        (["m.gguf", "--set=sharding.workers=gpu1"], 2, "expected host:port=GB"),
        (["m.gguf", "--set=sharding.workers=gpu1=0"], 2, "greater than 0"),
        (["m.gguf", "--set=sharding.workers=gpu1=1,gpu1=2"], 2, "gpu1:50052 is listed twice"),
        (["m.gguf", "--set=sharding.workers=[::1]:5=1"], 2, "not valid JSON"),
        (["m.gguf", '--set=sharding.workers=[{"address": "::1", "memory_gb": 1}]'], 2, "IPv4"),
        (["m.gguf", '--set=sharding.workers=[{"adress": "a", "memory_gb": 1}]'], 2, "address"),
        (["m.gguf", "--cache-type=q9", TWO], 2, "sharding.cache_type"),
        (["m.gguf", "--context=0", TWO], 2, "sharding.context_length"),
        (["none.gguf", TWO], 1, "there is no such file"),
        (["no such name", TWO], 1, "is no name of a model"),
        (["nope", TWO, "--set=sharding.store=empty"], 1, "looked in empty"),
    ],
)
def test_what_is_wrong_is_said_in_words(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run("plan", *arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_the_store_of_the_environment_is_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "elsewhere"))
    assert run("plan", "nope", TWO) == 1
    assert f"looked in {tmp_path / 'elsewhere'}" in capsys.readouterr().err


def test_workers_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sollol.yaml").write_text(
        "sharding:\n  workers:\n    - 127.0.0.2:9000=1\n    - address: 127.0.0.3\n      memory_gb: 2\n"
        "      round_trip_s: 0.0006\n      gbit_per_s: 10\n      memory_gb_per_s: 400\n"
    )
    assert run("plan", "m.gguf", "--json") == 0
    assert json.loads(capsys.readouterr().out)["shares"][0]["worker"] == "127.0.0.3:50052"


def test_links_of_workers() -> None:
    local, remote = (WorkerSettings.model_validate(f"{a}=1") for a in ("127.0.0.1:9", "10.0.0.2"))
    assert (local.is_local, local.link) == (True, (0.00005, 2.5e9))
    assert (remote.is_local, remote.link) == (False, (0.0005, 1.25e8))
    given = WorkerSettings(address="10.0.0.2", memory_gb=1, round_trip_s=0.1, gbit_per_s=8)
    assert given.link == (0.1, 1e9)
    assert (
        ShardingSettings.model_validate({"workers": "a=1, b=2"}).workers[1].memory_bytes == 2 << 30
    )


def test_workers_must_be_a_list() -> None:
    with pytest.raises(ValueError, match="expected a list of workers"):
        ShardingSettings.model_validate({"workers": 5})


def test_workers_that_do_not_answer_are_listed_and_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("workers") == 2
    assert run("workers", "--set=sharding.workers=127.0.0.1:1=1") == 1
    captured = capsys.readouterr()
    assert "--set sharding.local_worker_gb=16" in captured.err
    header, row, empty, remark = captured.out.splitlines()
    assert row.split()[:3] == ["127.0.0.1:1", "no", "answer"]
    assert (len(header) < 100, empty) == (True, "")
    assert remark.startswith("no RPC server answers at 127.0.0.1:1: ")
    assert run("workers", "--json", "--set=sharding.workers=127.0.0.1:1=1") == 1
    (told,) = json.loads(capsys.readouterr().out)["workers"]
    assert (told["version"], told["devices"], told["declared_bytes"]) == ("", [], 1 << 30)
    assert (told["state"], told["model"]) == ("no answer", "")


def test_workers_of_another_version_are_unusable(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ShardingSettings.model_validate({"workers": "10.0.0.2=1,10.0.0.3=1"})
    probes = (Probe("10.0.0.2:50052", (4, 0, 3)), Probe("10.0.0.3:50052", (3, 0, 0), error="old"))
    seen = [Seen(*each, MeasuredLink()) for each in zip(settings.workers, probes, strict=True)]
    told = told_workers(seen, dict)
    assert [one["state"] for one in told] == ["answers", "unusable"]
    print_workers(told[:1])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_doctor_looks_at_workers_and_their_store(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = [
        "discovery.local=false", "server.port=0", f"sharding.store={tmp_path}/none",
        "sharding.workers=127.0.0.1:1=1", "sharding.local_worker_gb=1",
    ]  # fmt: skip
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert exit_code("doctor", *arguments) == 0
    out = capsys.readouterr().out
    assert f"warn  model store: no models of an Ollama in {tmp_path}/none\n" in out
    assert "warn  worker 127.0.0.1:1: no RPC server answers at 127.0.0.1:1: " in out
    assert "ok    worker 127.0.0.1:*: the gateway runs it itself\n" in out
    (tmp_path / "none" / "manifests").mkdir(parents=True)
    assert exit_code("doctor", *arguments) == 0
    assert f"ok    model store: {tmp_path}/none\n" in capsys.readouterr().out


def test_doctor_tells_which_worker_is_busy_and_which_is_well() -> None:
    told = {"address": "gpu1:50052", "model": "", "error": "", "version": "4.0.3"}
    assert check_worker(told).finding == "RPC protocol 4.0.3"
    busy = check_worker({**told, "error": "it did not answer", "version": "", "model": "m:1"})
    assert (busy.status, busy.finding) == ("ok", "holds a part of m:1")
    other = check_worker({**told, "error": "it speaks version 3.0.0"})
    assert (other.status, other.advice) == ("warn", "")


def test_workers_are_compared_with_the_llama_server_of_the_settings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server, asked = tmp_path / "llama-server", tmp_path / "asked"
    server.touch()
    rpc_server = tmp_path / "rpc-server"
    rpc_server.write_text(f"#!/bin/sh\n: > '{asked}'\n")
    rpc_server.chmod(0o755)
    own = f"--set=sharding.binary={server}"
    assert run("plan", "m.gguf", "--context=2048", TWO, own) == 0
    assert asked.exists()
    asked.unlink()
    assert run("workers", TWO, own) == 1
    assert asked.exists()
    server.unlink()
    for arguments in (["plan", "m.gguf"], ["workers"]):
        assert run(*arguments, TWO, own) == 2
        assert f"sharding.binary: there is no llama-server at {server}" in capsys.readouterr().err
    alone = ["--set=discovery.local=false", "--set=server.port=0"]
    assert exit_code("doctor", TWO, own, *alone) == 1
    assert f"fail  workers: sharding.binary: there is no llama-server at {server}" in (
        capsys.readouterr().out
    )
