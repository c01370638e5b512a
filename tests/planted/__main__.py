"""Plants every bug, one at a time: ``python -m tests.planted``; some of them: ``python -m tests.planted NAME``.

The schedules are sharp when they show at least 95 of 100 bugs.
"""

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from tests.planted.bugs import Bug, all_bugs
from tests.planted.plant import Result, make_copy, try_bug

LEAST_SHARE = 0.95
AT_ONCE = 2


def _try_all(bugs: list[Bug], schedules: int, folder: Path) -> list[Result]:
    """Try bugs, some at once, each of those in a copy of its own."""
    copies: SimpleQueue[Path] = SimpleQueue()
    for number in range(AT_ONCE):
        copy = folder / str(number)
        copy.mkdir()
        make_copy(copy)
        copies.put(copy)
    results = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for result in pool.map(partial(_try_one, copies, schedules), bugs):
            seed = "SURVIVES" if result.seed is None else f"schedule {result.seed}"
            print(
                f"{result.bug.name:32s} {result.bug.file:26s} {seed:14s} {result.said[:90]}",
                flush=True,
            )
            results.append(result)
    return results


def _try_one(copies: "SimpleQueue[Path]", schedules: int, bug: Bug) -> Result:
    copy = copies.get()
    try:
        return try_bug(bug, copy, schedules)
    finally:
        copies.put(copy)


def main() -> int:
    """Read the command line and plant."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    parser.add_argument("names", nargs="*", help="of bugs; all when none is given")
    parser.add_argument("--schedules", type=int, default=1000, help="at most, for each bug")
    args = parser.parse_args()
    bugs = [bug for bug in all_bugs() if not args.names or bug.name in args.names]
    with tempfile.TemporaryDirectory(prefix="sollol-planted-") as folder:
        results = _try_all(bugs, args.schedules, Path(folder))
    caught = sum(result.is_caught for result in results)
    print(f"{caught} of {len(results)} bugs are caught within {args.schedules} schedules")
    return 0 if caught >= LEAST_SHARE * len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
