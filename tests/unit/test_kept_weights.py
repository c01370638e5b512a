"""What a worker keeps on the disk: whole files stay, and those that may be cut short do not."""

import json
import os
import pwd
from pathlib import Path

import pytest

from sollol.errors import WorkerFailed
from sollol.sharding.kept_weights import LIST_NAME, KeptWeights, cache_directory, with_home

ONE, TWO = "00000000000000aa", "f42cfb619b3cade9"
PID = os.getpid()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a list on which nothing is."""
    folder = tmp_path / "llama.cpp" / "rpc"
    assert KeptWeights(folder).drop_doubtful() == []
    return folder


def listed(folder: Path) -> list[str]:
    return sorted(json.loads((folder / LIST_NAME).read_text()))


def test_a_file_that_was_seen_to_be_whole_stays(folder: Path) -> None:
    kept = KeptWeights(folder)
    (folder / ONE).write_bytes(b"weights")
    kept.look(PID)
    assert listed(folder) == []
    kept.look(PID)
    assert listed(folder) == [ONE]
    (folder / TWO).write_bytes(b"half of th")
    assert KeptWeights(folder).drop_doubtful() == [TWO]
    assert sorted(path.name for path in folder.iterdir()) == [ONE, LIST_NAME]


def test_a_file_that_still_grows_or_is_open_is_not_whole(folder: Path) -> None:
    kept = KeptWeights(folder)
    with (folder / ONE).open("wb") as file:
        for _ in range(3):
            kept.look(PID)
        assert listed(folder) == []
        file.write(b"more")
    kept.look(PID)
    assert listed(folder) == []
    kept.look(PID)
    assert listed(folder) == [ONE]


def test_nothing_is_whole_once_its_writer_has_ended(folder: Path, tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "1" / "fd").mkdir(parents=True)
    kept = KeptWeights(folder)
    (folder / ONE).write_bytes(b"half of th")
    for pid in (1, 1, 2, 2):
        kept.look(pid, proc)
    assert listed(folder) == []
    kept.look(1, tmp_path / "no system with it")
    kept.look(1, tmp_path / "no system with it")
    assert listed(folder) == [ONE]


def test_a_descriptor_may_close_meanwhile(folder: Path, tmp_path: Path) -> None:
    descriptors = tmp_path / "proc" / "1" / "fd"
    descriptors.mkdir(parents=True)
    (descriptors / "0").symlink_to(folder / ONE)
    kept = KeptWeights(folder)
    (folder / ONE).write_bytes(b"half of th")
    for _ in range(2):
        kept.look(1, tmp_path / "proc")
    assert listed(folder) == []


def test_a_file_that_was_whole_and_has_changed_is_dropped(folder: Path) -> None:
    kept = KeptWeights(folder)
    for name in (ONE, TWO):
        (folder / name).write_bytes(b"weights")
    kept.look(PID)
    kept.look(PID)
    os.truncate(folder / ONE, 3)
    kept.look(PID)
    assert not (folder / ONE).exists()
    os.truncate(folder / TWO, 3)
    assert KeptWeights(folder).drop_doubtful() == [TWO]


def test_what_a_full_disk_took_is_dropped(folder: Path) -> None:
    (folder / ONE).write_bytes(b"half of th")
    KeptWeights(folder, full_bytes=1 << 62).look(PID)
    assert sorted(path.name for path in folder.iterdir()) == [LIST_NAME]


def test_a_folder_that_is_emptied_meanwhile_has_a_list_again(folder: Path) -> None:
    kept = KeptWeights(folder)
    (folder / LIST_NAME).unlink()
    kept.look(PID)
    (folder / ONE).write_bytes(b"half of th")
    assert KeptWeights(folder).drop_doubtful() == [ONE]


def test_files_of_another_program_are_left(tmp_path: Path) -> None:
    (tmp_path / ONE).write_bytes(b"weights")
    (tmp_path / "notes.txt").write_text("mine")
    assert KeptWeights(tmp_path).drop_doubtful() == []
    assert listed(tmp_path) == [ONE]
    assert KeptWeights(tmp_path).drop_doubtful() == []
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"00000000000000aa":3}', "\xff"])
def test_a_damaged_list_says_nothing(text: str, folder: Path) -> None:
    (folder / ONE).write_bytes(b"weights")
    (folder / LIST_NAME).write_text(text, encoding="latin-1")
    assert KeptWeights(folder).drop_doubtful() == [ONE]


def test_a_folder_that_cannot_be_made_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    kept = KeptWeights(tmp_path / "file" / "rpc")
    assert kept.drop_doubtful() == []
    kept.look(PID)


def read_at(path: Path, seconds: int) -> None:
    """Do as a read does, on any disk."""
    os.utime(path, ns=(seconds * 10**9, path.stat().st_mtime_ns))


def test_what_a_server_ended_over_is_dropped(folder: Path) -> None:
    kept = KeptWeights(folder)
    for name in (ONE, TWO, "00000000000000bb"):
        (folder / name).write_bytes(b"weights")
    kept.look(PID)
    kept.look(PID)
    assert KeptWeights(folder).drop_doubtful() == []
    assert kept.drop_last_read() == []  # nothing was read in this server's life
    read_at(folder / TWO, 1000)
    read_at(folder / ONE, 999)
    assert kept.drop_last_read() == [TWO]
    assert KeptWeights(folder).drop_doubtful() == []
    assert sorted(path.name for path in folder.iterdir()) == [ONE, "00000000000000bb", LIST_NAME]
    assert KeptWeights(folder / "no such").drop_last_read() == []


def test_what_was_dropped_may_be_written_anew(folder: Path) -> None:
    """A server that reads a file in the moment in which it is deleted ends."""
    kept = KeptWeights(folder)
    (folder / ONE).write_bytes(b"weights, and too many of them")
    for _ in range(2):
        kept.look(PID)
    read_at(folder / ONE, 1000)
    assert kept.drop_last_read() == [ONE]
    assert listed(folder) == []
    (folder / ONE).write_bytes(b"weights")
    for _ in range(2):
        kept.look(PID)
    assert listed(folder) == [ONE]
    (folder / ONE).write_bytes(b"other weights")
    assert kept.drop_doubtful() == [ONE]
    for _ in range(2):
        (folder / TWO).write_bytes(b"weights")
        kept.look(PID)
        kept.look(PID)
        assert listed(folder) == [TWO]
        (folder / TWO).unlink()
        assert kept.drop_doubtful() == []
    (folder / ONE).write_bytes(b"weights again")
    for _ in range(2):
        kept.look(PID)
    assert listed(folder) == [ONE]


def test_what_is_no_file_is_put_aside(folder: Path) -> None:
    (folder / ONE).mkdir()
    (folder / ONE / "of somebody").write_text("x")
    (folder / TWO).symlink_to(folder / "nothing")
    os.mkfifo(folder / "00000000000000bb")
    assert KeptWeights(folder).drop_doubtful() == [ONE, "00000000000000bb", TWO]
    left = sorted(path.name for path in folder.iterdir())
    assert left == [f"{ONE}.odd", "00000000000000bb.odd", f"{TWO}.odd", LIST_NAME]
    assert (folder / f"{ONE}.odd" / "of somebody").read_text() == "x"


def test_what_is_put_aside_again_gets_another_name(folder: Path) -> None:
    kept = KeptWeights(folder)
    for number in range(3):
        (folder / ONE).mkdir()
        (folder / ONE / "of somebody").write_text(str(number))
        assert kept.drop_doubtful() == [ONE]
    (folder / TWO).write_bytes(b"cut")
    assert kept.drop_doubtful() == [TWO]
    aside = [folder / f"{ONE}.odd{number}" / "of somebody" for number in ("", 1, 2)]
    assert [path.read_text() for path in aside] == ["0", "1", "2"]


def test_a_list_that_is_nested_without_end_says_nothing(folder: Path) -> None:
    (folder / ONE).write_bytes(b"cut")
    (folder / LIST_NAME).write_text("[" * 100_000)
    assert KeptWeights(folder).drop_doubtful() == [ONE]


def test_the_folder_is_where_llama_cpp_has_it() -> None:
    assert cache_directory({"HOME": "/h"}) == Path("/h/.cache/llama.cpp/rpc")
    assert cache_directory({"HOME": "/h", "XDG_CACHE_HOME": "/x"}) == Path("/x/llama.cpp/rpc")


def test_without_a_home_that_of_the_user_is_taken() -> None:
    for told in ({"HOME": "/h"}, {"XDG_CACHE_HOME": "/x"}):
        assert with_home(told, 0) == told
    assert with_home({"A": "b"}, 0) == {"A": "b", "HOME": pwd.getpwuid(0).pw_dir}
    with pytest.raises(WorkerFailed, match="set XDG_CACHE_HOME, or use --no-cache"):
        with_home({"HOME": ""}, 1_234_567_890)
