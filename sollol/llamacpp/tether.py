"""Become another program that the kernel kills when our parent dies.

Run as a script: ``python -I -S tether.py PARENT_PID PROGRAM [ARGUMENT...]``. The settings made here
outlive ``exec``, so no process stays in between. It is a program of its own because the same calls
between ``fork`` and ``exec`` of a threaded parent (``preexec_fn``) can deadlock, and ``setpriv`` is
not on every system.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CANNOT_RUN = 127
"""Exit code of a program that could not be executed, as in a shell."""


def tie_to_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL at the parent's death; end if it died before we could ask."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit("the parent process has ended")


def main() -> None:
    """Tie this process to its parent, then turn into the program given on the command line."""
    parent_pid, program = int(sys.argv[1]), sys.argv[2]
    tie_to_parent(parent_pid)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Python ignores this one and SIGPIPE, and exec keeps that. SIGPIPE stays ignored: an RPC server
    # of llama.cpp that answers a coordinator which has just died would end by it.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execv(program, sys.argv[2:])  # noqa: S606 - no shell is wanted
    except OSError as error:
        print(f"cannot run {program}: {error.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(CANNOT_RUN)


if __name__ == "__main__":
    main()
