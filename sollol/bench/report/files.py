"""A comparison's files: Markdown, a page, and JSON."""

from pathlib import Path
from tempfile import TemporaryFile

import msgspec

from sollol.bench.comparison import Comparison
from sollol.bench.outcome import summarise
from sollol.bench.report.markdown import markdown
from sollol.bench.report.page import page
from sollol.bench.report.tables import facts

NAME = "report"


def make_folder(folder: Path) -> None:
    """Make the folder of a report: before the measurement, which may take hours.

    Raises:
        ValueError: it cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out {folder}: {error.strerror}") from None


def write_report(comparison: Comparison, folder: Path) -> list[Path]:
    """Write all files into a folder that is there, and return their paths.

    Raises:
        OSError: they cannot be written.
    """
    texts = {
        folder / f"{NAME}.md": markdown(comparison).encode(),
        folder / f"{NAME}.html": page(comparison).encode(),
        folder / f"{NAME}.json": as_json(comparison),
    }
    for path, text in texts.items():
        path.write_bytes(text)
    return list(texts)


def as_json(comparison: Comparison) -> bytes:
    """Return the figures of each policy, over all rounds and of each."""
    content = {
        "facts": dict(facts(comparison)),
        "policies": comparison.summaries,
        "rounds": {
            policy: [summarise(policy, [run]) for run in runs]
            for policy, runs in comparison.replays.items()
        },
    }
    return msgspec.json.format(msgspec.json.encode(content))
