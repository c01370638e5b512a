"""Folders with the links that a llama-server needs while it starts, and those that killed gateways have left."""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "sollol-shard-"
YOUNG_S = 60.0
"""Its owner may not have locked a folder yet that has just been made."""


@contextmanager
def link_folder(links: Mapping[str, Path]) -> Iterator[Path]:
    """Make a folder with links for the length of a block; it is locked, so that others know it is used.

    Args:
        links: what they lead to, by name.

    Raises:
        OSError: no temporary files can be made.
    """
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            with suppress(
                OSError
            ):  # a network file system may not lock folders, nor clear them then
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            for link, target in links.items():
                Path(name, link).symlink_to(target)
            yield Path(name)
        finally:
            os.close(descriptor)


def clear_left(now: float | None = None) -> list[str]:
    """Delete the folders of gateways of this user that were killed, and return their names. Blocks.

    Args:
        now: seconds since 1970.
    """
    before = (time.time() if now is None else now) - YOUNG_S
    with suppress(OSError):
        found = sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
        return [path.name for path in found if _was_left(path, before)]
    return []


def _was_left(path: Path, before: float) -> bool:
    """Delete a folder if its owner is gone, and return whether that was so."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # it is no folder, or another user's
        return False
    try:
        about = os.fstat(descriptor)
        if about.st_uid != os.geteuid() or about.st_mtime > before:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = list(path.iterdir())
        if not all(each.is_symlink() for each in found):  # somebody has put something else there
            return False
        for link in found:
            link.unlink()
        path.rmdir()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
