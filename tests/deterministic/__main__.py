"""Plays schedules: ``python -m tests.deterministic --schedules 10000``, or one: ``--seed 17 --trace``."""

import argparse
import hashlib
import multiprocessing
import os
import sys
import time
from collections import Counter

from tests.deterministic.runs import ScheduleFailed, be_quiet, play

BLOCK = 50
MOST_SHOWN = 20


def _play_block(seeds: range) -> tuple[list[str], list[tuple[int, str]]]:
    """Play some schedules; return the digests of those that passed, and which failed, and why."""
    be_quiet()
    digests, failed = [], []
    for seed in seeds:
        try:
            digests.append(play(seed)[0])
        except ScheduleFailed as failure:
            failed.append((seed, failure.said))
    return digests, failed


def _play_many(first: int, count: int, processes: int) -> int:
    """Play schedules on several processes; return the exit status."""
    blocks = [
        range(start, min(start + BLOCK, first + count))
        for start in range(first, first + count, BLOCK)
    ]
    failed: list[tuple[int, str]] = []
    whole = hashlib.sha256()
    began = time.monotonic()
    with multiprocessing.Pool(processes) as pool:
        for digests, found in pool.imap(_play_block, blocks):
            failed += found
            whole.update("".join(digests).encode())
    kinds = Counter("".join(c for c in said if not c.isdigit())[:60] for _, said in failed)
    for seed, said in failed[:MOST_SHOWN]:
        print(f"{seed}: {said[:200]}\n    python -m tests.deterministic --seed {seed} --trace")
    for kind, times in kinds.most_common(MOST_SHOWN):
        print(f"{times:6d}  {kind}")
    print(f"{count} schedules in {time.monotonic() - began:.0f} s, {len(failed)} failed")
    print(whole.hexdigest())
    return 1 if failed else 0


def _play_one(seed: int, *, shows_trace: bool) -> int:
    try:
        digest, trace = play(seed)
    except ScheduleFailed as failure:
        if shows_trace:
            print("\n".join(failure.trace))
        print(failure)
        return 1
    if shows_trace:
        print("\n".join(trace))
    print(digest)
    return 0


def _play_until_failure(first: int, count: int) -> int:
    """Play schedules up to the first that fails."""
    for seed in range(first, first + count):
        if _play_one(seed, shows_trace=False):
            return 1
    return 0


def main() -> int:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(prog="python -m tests.deterministic", description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000, help="how many to play")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first")
    parser.add_argument("--seed", type=int, help="play only this one")
    parser.add_argument("--trace", action="store_true", help="show all that happens in it")
    parser.add_argument("--until-failure", action="store_true", help="stop at the first failure")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    args = parser.parse_args()
    be_quiet()
    if args.seed is not None:
        return _play_one(args.seed, shows_trace=args.trace)
    if args.until_failure:
        return _play_until_failure(args.first, args.schedules)
    return _play_many(args.first, args.schedules, args.processes)


if __name__ == "__main__":
    sys.exit(main())
