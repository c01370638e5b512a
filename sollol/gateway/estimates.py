"""Keeps what the scheduler has learned in a small file, so that a restart does not forget it.

The file is an aid, never a need: whatever is wrong with it is told once, and the gateway goes on.
Two gateways may have the same file; the last to write wins, and both read whole files only.
"""

import asyncio
import contextlib
import errno
import glob
import os
import stat
import tempfile
import time
from pathlib import Path

import msgspec
import structlog

from sollol.scheduling.scheduler import Scheduler

SAVE_EVERY_S = 60.0
MAX_BYTES = 32 * 1024 * 1024
"""A longer file is not read; one of a thousand nodes has a tenth of that."""

UNFINISHED_S = 600.0
"""A file that is being written for longer is left from a writer that was killed."""

log = structlog.get_logger()


class Estimates:
    """Reads the file at the start, writes it once a minute and at the end. No path, no file."""

    def __init__(self, scheduler: Scheduler, path: Path | None) -> None:
        self._scheduler = scheduler
        self._path = path
        self._stopping = asyncio.Event()
        self._saved_lessons = 0
        self._is_failing = False

    async def load(self) -> None:
        """Give the scheduler what an earlier run has learned."""
        if self._path is None:
            return
        try:
            kept = await asyncio.to_thread(read, self._path)
            dropped = 0 if kept is None else self._scheduler.take_learned(kept)
        except (OSError, ValueError, RecursionError) as error:
            advice = "delete it, or set scheduling.state_file to another place"
            self._warn("estimates_not_read", error, advice)
            return
        if dropped:
            log.warning("estimates_partly_read", file=str(self._path), dropped=dropped)

    async def run(self) -> None:
        """Save now and then what is new, and once more after :meth:`stop`."""
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVE_EVERY_S):
                    await self._stopping.wait()
            await self.save()
        await self.save()  # what came while the last one was written

    def stop(self) -> None:
        """Make :meth:`run` end, with what was learned saved."""
        self._stopping.set()

    async def save(self) -> None:
        """Write the file if anything was learned since it was written last."""
        lessons = self._scheduler.lessons
        if self._path is None or lessons == self._saved_lessons:
            return
        try:
            await asyncio.to_thread(write, self._path, self._scheduler.learned())
        except OSError as error:
            if not self._is_failing:
                advice = "make the folder writable, or set scheduling.state_file to another place"
                self._warn("estimates_not_saved", error, advice)
            self._is_failing = True
            return
        self._saved_lessons, self._is_failing = lessons, False

    def _warn(self, event: str, error: Exception, advice: str) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        log.warning(event, file=str(self._path), reason=reason, advice=advice)


def read(path: Path) -> object:
    """Return what was kept; None where there is no file. Blocks.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a file of ours.
    """
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for a writer
        raise ValueError("not a regular file")
    if facts.st_size > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES} bytes")
    return msgspec.json.decode(path.read_bytes())


def write(path: Path, learned: dict[str, object]) -> None:
    """Replace the file as a whole: a reader sees the old one or the new one. Blocks.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():  # to replace a device would take it from all others
        raise OSError(errno.EINVAL, "not a regular file")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(learned))
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sweep(path)


def _sweep(path: Path) -> None:
    """Remove what writers left that were killed; a young file may be another gateway's at work."""
    for file in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(OSError):  # another gateway was faster
            if time.time() - file.stat().st_mtime > UNFINISHED_S:
                file.unlink()
