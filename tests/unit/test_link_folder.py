"""Folders of links: there while they are used, and cleared when their owner was killed."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sollol.sharding.link_folder import PREFIX, YOUNG_S, clear_left, link_folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    """The directory for temporary files."""
    usual, tempfile.tempdir = tempfile.tempdir, str(tmp_path)
    yield tmp_path
    tempfile.tempdir = usual


def later() -> float:
    return time.time() + 2 * YOUNG_S


def test_one_is_there_while_it_is_used(folder: Path) -> None:
    (folder / "blob").write_text("weights")
    with link_folder({"a.gguf": folder / "blob"}) as made:
        assert (made / "a.gguf").read_text() == "weights"
        assert clear_left(later()) == []
        assert made.is_dir()
    assert not made.exists()


def test_one_that_was_left_is_cleared_but_not_what_it_leads_to(folder: Path) -> None:
    (folder / "blob").write_text("weights")
    left = folder / f"{PREFIX}left"
    left.mkdir()
    (left / "a.gguf").symlink_to(folder / "blob")
    assert clear_left() == []  # it may have been made just now
    assert clear_left(later()) == [left.name]
    assert [path.name for path in folder.iterdir()] == ["blob"]


def test_what_is_no_folder_of_this_user_is_left(folder: Path) -> None:
    (folder / f"{PREFIX}file").write_text("x")
    (folder / "other").mkdir()
    (folder / f"{PREFIX}link").symlink_to(folder / "other")
    foreign = folder / f"{PREFIX}foreign"
    foreign.mkdir()
    if os.geteuid() == 0:
        os.chown(foreign, 65534, 65534)
    else:
        foreign.chmod(0)
    assert clear_left(later()) == []
    assert len(list(folder.iterdir())) == 4


def test_without_a_directory_for_them_there_are_none(folder: Path) -> None:
    tempfile.tempdir = str(folder / "nothing")
    assert clear_left() == []


def test_what_holds_more_than_links_is_somebody_elses(folder: Path) -> None:
    notes = folder / f"{PREFIX}notes"
    notes.mkdir()
    (notes / "a.gguf").symlink_to(folder / "blob")
    (notes / "of mine").write_text("x")
    assert clear_left(later()) == []
    assert sorted(path.name for path in notes.iterdir()) == ["a.gguf", "of mine"]
