"""Which files of a worker's cache are whole.

An RPC server trusts a file by its name and never looks at what is in it. One that was cut short, as the
server ended while it wrote it, or the disk was full, would give a model that talks nonsense ever after,
without a word. So files are listed once they are seen to be whole, and others are deleted before the next
server starts: what is missing is only sent again.
"""

import json
import os
import pwd
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from sollol.errors import WorkerFailed

LIST_NAME = "sollol-whole.json"
PROC = Path("/proc")
_IS_WEIGHTS = re.compile(r"[0-9a-f]{16}", re.ASCII).fullmatch
FULL_BYTES = 1 << 20
"""With so little room left, what was written last may lack its end."""


def cache_directory(environment: Mapping[str, str]) -> Path:
    """Return where an RPC server with this environment keeps weights.

    Source: llama.cpp, common/common.cpp, ``fs_get_cache_directory``.
    """
    base = environment.get("XDG_CACHE_HOME") or f"{environment.get('HOME', '')}/.cache"
    return Path(base) / "llama.cpp" / "rpc"


def with_home(environment: Mapping[str, str], user: int) -> Mapping[str, str]:
    """Return an environment that says where to keep weights; without it a server takes ``/.cache``.

    Args:
        user: the number of the user, whose home is taken.

    Raises:
        WorkerFailed: the user has none.
    """
    if environment.get("XDG_CACHE_HOME") or environment.get("HOME"):
        return environment
    try:
        return {**environment, "HOME": pwd.getpwuid(user).pw_dir}
    except KeyError:
        raise WorkerFailed(
            f"user {user} has no home to keep weights in: set XDG_CACHE_HOME, or use --no-cache"
        ) from None


class Mark(NamedTuple):
    """What changes when a file does."""

    size_bytes: int
    changed_ns: int


class KeptWeights:
    """The files in one folder, which several workers may share. All methods block.

    Args:
        full_bytes: a disk with less room left counts as full.
    """

    def __init__(self, folder: Path, full_bytes: int = FULL_BYTES) -> None:
        self._folder = folder
        self._full_bytes = full_bytes
        self._seen: dict[str, Mark] = {}
        """Of files that are not listed, as they were when last looked at."""

    def drop_doubtful(self) -> list[str]:
        """Delete files that are not known to be whole before a server starts, and return their names.

        Where there is no list yet, another program has made the files: they are left, and listed. What is
        no file, at which a server would end or wait for ever, is given another name.
        """
        with suppress(OSError):  # the RPC server says what is wrong with the folder
            self._folder.mkdir(parents=True, exist_ok=True)
            odd = self._put_aside()
            files = self._files()
            listed = self._listed()
            whole = files if listed is None else _common(listed, files)
            if whole != listed:
                self._write(whole)
            dropped = self._delete(files.keys() - whole.keys())
            self._forget_reads(files.keys() - set(dropped))
            return odd + dropped
        return []

    def drop_last_read(self) -> list[str]:
        """Delete the file that a server read last before it ended by itself, and return its name, if any.

        One with more in it than its tensor has ends a server, and would do so at each later load.
        """
        with suppress(OSError):
            read_at = {name: (self._folder / name).stat().st_atime_ns for name in self._files()}
            last = max(read_at, key=lambda name: read_at[name], default="")
            if last and read_at[last]:
                return self._delete([last])
        return []

    def look(self, pid: int, proc: Path = PROC) -> None:
        """List files that have not changed since the last call, and that the server has closed.

        Of a full disk, and of files that were listed as something else, none is: they are deleted.

        Args:
            pid: of the RPC server.
        """
        with suppress(OSError):
            listed = self._listed()
            if listed is None:  # somebody has emptied the folder
                self._write(listed := {})
            new = {name: mark for name, mark in self._files().items() if listed.get(name) != mark}
            still_open = self._open(proc / str(pid)) if proc.is_dir() else set()
            closed = {name: mark for name, mark in new.items() if name not in still_open}
            is_full = shutil.disk_usage(self._folder).free < self._full_bytes
            self._delete(name for name in closed if is_full or name in listed)
            whole = {name: mark for name, mark in closed.items() if self._seen.get(name) == mark}
            self._seen = new
            if whole and not is_full:
                self._list(whole)

    def _put_aside(self) -> list[str]:
        with os.scandir(self._folder) as entries:
            odd = sorted(e.name for e in entries if _IS_WEIGHTS(e.name) and not e.is_file())
        return [name for name in odd if self._rename(name)]

    def _rename(self, name: str) -> bool:
        with suppress(OSError):
            free = (f"{name}.odd{number or ''}" for number in count())
            path = next(
                path for path in map(self._folder.joinpath, free) if not os.path.lexists(path)
            )
            (self._folder / name).rename(path)
            return True
        return False

    def _forget_reads(self, names: Iterable[str]) -> None:
        """Make files look as never read; most systems note only the first read after that."""
        for name in names:
            path = self._folder / name
            os.utime(path, ns=(0, path.stat().st_mtime_ns))

    def _list(self, whole: dict[str, Mark]) -> None:
        for name in whole:
            with (self._folder / name).open("rb") as file:
                os.fsync(file.fileno())  # else a power cut would take it, and not the list
        self._write(_common({**(self._listed() or {}), **whole}, self._files()))

    def _files(self) -> dict[str, Mark]:
        found: dict[str, Mark] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another worker has deleted it
                    if _IS_WEIGHTS(entry.name) and entry.is_file():
                        stat = entry.stat()
                        found[entry.name] = Mark(stat.st_size, stat.st_mtime_ns)
        return found

    def _listed(self) -> dict[str, Mark] | None:
        """Return what is known to be whole: nothing by a list that is damaged, None without a list."""
        try:
            told = json.loads((self._folder / LIST_NAME).read_bytes())
            return {name: Mark(*mark) for name, mark in told.items()}
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def _write(self, listed: dict[str, Mark]) -> None:
        partial = self._folder / f"{LIST_NAME}.{os.getpid()}"
        partial.write_text(json.dumps(listed))
        partial.replace(self._folder / LIST_NAME)

    def _delete(self, names: Iterable[str]) -> list[str]:
        """Delete files, and take them off the list, so that a server may write them anew."""
        dropped = sorted(names)
        for name in dropped:
            (self._folder / name).unlink(missing_ok=True)
        listed = self._listed() or {}
        if not listed.keys().isdisjoint(dropped):
            self._write({name: mark for name, mark in listed.items() if name not in dropped})
        return dropped

    def _open(self, process: Path) -> set[str]:
        """Return the files that a process has open.

        Raises:
            ProcessLookupError: it has ended, and what it wrote at last may lack its end.
        """
        descriptors = list((process / "fd").iterdir())
        if not descriptors:
            raise ProcessLookupError
        found: set[str] = set()
        for descriptor in descriptors:
            with suppress(FileNotFoundError):  # it was closed just now
                path = Path(os.readlink(descriptor))
                if path.parent == self._folder.resolve():
                    found.add(path.name)
        return found


def _common(listed: Mapping[str, Mark], files: Mapping[str, Mark]) -> dict[str, Mark]:
    """Return the files that are as they are listed."""
    return {name: mark for name, mark in listed.items() if files.get(name) == mark}
