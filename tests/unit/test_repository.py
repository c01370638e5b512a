"""Rules of the house that no linter knows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sollol import metrics

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("sollol/**/*.py"), *ROOT.glob("tests/**/*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [("sollol", {"fastapi", "uvicorn", "httpx"}), ("sollol.api.serve", {"httpx"})],
)
def test_an_import_loads_no_framework_that_is_not_needed(module: str, unwanted: set[str]) -> None:
    program = f"import sys, {module}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not unwanted & set(out.stdout.split())


def test_no_pattern_uses_a_possessive_group() -> None:
    """``(?:...)*+`` gives wrong ends on Python 3.11.0 to 3.11.3; an atomic group does not."""
    bad = [
        path for path in ROOT.glob("sollol/**/*.py") if re.search(r"\)[*+?]\+", path.read_text())
    ]
    assert [path for path in bad if path.name not in ("goscan.py", "gobase64.py")] == []


def test_every_metric_is_listed() -> None:
    """What is not in ``ALL`` is on no page."""
    declared = [spec for spec in vars(metrics).values() if isinstance(spec, metrics.Spec)]
    assert {*declared, *metrics.GAUGES} == {*metrics.ALL}


def test_every_package_says_what_it_is_for() -> None:
    packages = ROOT.glob("sollol/**/__init__.py")
    assert [p for p in packages if not p.read_text(encoding="utf-8").startswith('"""')] == []


def test_requirements_are_pinned_with_hashes_and_name_no_registry() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in text
        packages = re.split(r"\n(?=\S)", text.strip())
        assert [p for p in packages if "==" not in p or "--hash=sha256:" not in p] == []
