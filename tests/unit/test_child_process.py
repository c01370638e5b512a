"""A child's output is kept, its end is certain, and it never outlives its parent."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from sollol.llamacpp import tether
from sollol.llamacpp.process import LINE_BYTES, LOG_LINES, ChildProcess, allowed_environment

DEADLINE_S = 10.0
SLEEP = "import time; time.sleep(60)"
IGNORE_TERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); {SLEEP}"
PARENT = """
import asyncio, sys
from sollol.llamacpp.process import ChildProcess

async def main():
    child = await ChildProcess.start([sys.executable, "-c", "import time; time.sleep(60)"], env={})
    print(child.pid, flush=True)
    await child.wait()

asyncio.run(main())
"""


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


async def start(code: str, on_line: Callable[[str], None] | None = None) -> ChildProcess:
    argv = [sys.executable, "-u", "-c", code]
    return await ChildProcess.start(argv, env={"GREETING": "hi"}, on_line=on_line)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - a process of another parent sends no event
            await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    """Say whether a process runs; a dead one that nobody has reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_output_and_exit_code_are_kept() -> None:
    lines: list[str] = []
    child = await start(
        "import sys; print('one'); print('two', file=sys.stderr); print('last', end=''); sys.exit(3)",
        lines.append,
    )
    assert await child.wait() == 3
    assert child.returncode == 3
    assert lines == ["one", "two", "last"]
    assert child.log_tail() == "one\ntwo\nlast"
    assert child.log_tail(1) == "last"
    assert not is_running(child.pid)


async def test_several_wait_and_a_cancelled_waiter_does_no_harm() -> None:
    child = await start("import time; time.sleep(0.2); print('done')")
    impatient = asyncio.create_task(child.wait())
    await asyncio.sleep(0)
    impatient.cancel()
    first, second = await asyncio.gather(child.wait(), child.wait())
    assert first == second == 0
    assert child.log_tail() == "done"
    with pytest.raises(asyncio.CancelledError):
        await impatient


@pytest.mark.parametrize("separator", ["\\n", ""], ids=["lines", "one line"])
async def test_a_flood_of_output_neither_blocks_the_child_nor_fills_memory(separator: str) -> None:
    child = await start(
        f"import sys; [sys.stdout.write('x' * 99 + '{separator}') for _ in range(100_000)]"
    )
    async with asyncio.timeout(DEADLINE_S):
        assert await child.wait() == 0
    kept = child.log_tail(10 * LOG_LINES).splitlines()
    assert 0 < len(kept) <= LOG_LINES
    assert all(0 < len(line) <= LINE_BYTES for line in kept)


async def test_the_child_leads_its_own_group_with_no_more_rights_and_only_its_environment() -> None:
    child = await start(
        "import os; print(os.getsid(0) == os.getpgid(0) == os.getpid());"
        "print([name for name in os.environ if name != 'LC_CTYPE']);"
        "print('NoNewPrivs:\\t1' in open('/proc/self/status').read());"
        "print(os.read(0, 1))"
    )
    await child.wait()
    assert child.log_tail() == "True\n['GREETING']\nTrue\nb''"


async def test_stop_ends_the_child_and_may_be_called_again() -> None:
    child = await start(SLEEP)
    await child.stop()
    await child.stop()
    assert child.returncode == -signal.SIGTERM
    assert not is_running(child.pid)


async def test_stop_kills_a_child_that_ignores_sigterm() -> None:
    up = asyncio.Event()
    child = await start(IGNORE_TERM, lambda line: up.set())
    await up.wait()
    await child.stop(grace_s=0.05)
    assert child.returncode == -signal.SIGKILL


async def test_a_cancelled_stop_kills() -> None:
    up = asyncio.Event()
    child = await start(IGNORE_TERM, lambda line: up.set())
    await up.wait()
    stopping = asyncio.create_task(child.stop(grace_s=60))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert child.returncode == -signal.SIGKILL


async def test_what_the_child_leaves_in_its_group_is_killed() -> None:
    child = await start(
        f"import subprocess, sys;print(subprocess.Popen([sys.executable, '-c', '{SLEEP}']).pid)"
    )  # the grandchild inherits the pipe and holds it open
    assert await child.wait() == 0
    grandchild = int(child.log_tail())
    await until(lambda: not is_running(grandchild))


async def test_a_cancelled_start_leaves_no_process() -> None:
    me = psutil.Process()
    before = set(me.children())
    for rounds in range(4):
        starting = asyncio.create_task(start(SLEEP))
        for _ in range(rounds):
            await asyncio.sleep(0)
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await (await starting).stop(0)
    await until(lambda: all(not is_running(left.pid) for left in set(me.children()) - before))


async def test_a_program_that_cannot_run_says_so_in_the_log(tmp_path: Path) -> None:
    child = await ChildProcess.start([str(tmp_path / "absent")], env={})
    assert await child.wait() == tether.CANNOT_RUN
    assert child.log_tail() == f"cannot run {tmp_path / 'absent'}: No such file or directory"


async def test_a_connection_that_was_closed_does_not_end_a_child() -> None:
    command = ["/bin/sh", "-c", "grep SigIgn /proc/self/status"]
    child = await ChildProcess.start(command, env={"PATH": os.environ["PATH"]})
    await child.wait()
    ignored = int(child.log_tail().split()[1], 16)
    assert ignored & 1 << signal.SIGPIPE - 1
    assert not ignored & 1 << signal.SIGXFSZ - 1


async def test_no_orphan_survives_a_killed_parent() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    try:
        assert is_running(pid)
        parent.kill()
        await parent.wait()
        await until(lambda: not is_running(pid))
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def test_a_child_whose_parent_died_first_does_not_run() -> None:
    tether_of_another = await asyncio.create_subprocess_exec(
        sys.executable, tether.__file__, "999999999", "/bin/true", stderr=asyncio.subprocess.PIPE
    )
    _, errors = await tether_of_another.communicate()
    assert tether_of_another.returncode == 1
    assert errors == b"the parent process has ended\n"


def test_a_child_sees_no_keys_and_no_options_of_other_programs() -> None:
    environ = {"PATH": "/bin", "SOLLOL_API_KEY": "secret", "LLAMA_ARG_HOST": "0.0.0.0"}
    assert allowed_environment(environ) == {"PATH": "/bin"}
