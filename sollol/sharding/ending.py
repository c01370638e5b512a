"""Why a coordinator ended or did not start, from what it wrote. Pure.

Source: llama.cpp, as builds 10068, 10434 and 11434 write it with ``--no-log-prefix``.
"""

import re
from collections.abc import Sequence

MAX_REASON_CHARACTERS = 300
_WORKER_LOST = re.compile(
    r"Remote RPC server crashed|\brecv failed \(bytes_recv|\bsend failed \(|Failed to connect to|"
    r"RPC handshake failed|RPC server version mismatch|invalid device: RPC"
)
_CAUSES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        (r"RPC server version mismatch.*", "Install the same llama.cpp on all machines."),
        (r"Failed to connect to \S+", "Start the RPC server there, or take it off the workers."),
        (r"Remote RPC server crashed.*|RPC handshake failed.*", "Look at the log of the workers."),
        (r"RPC not supported in this build.*", "Install a llama.cpp that is built with GGML_RPC."),
        (
            r"failed to open GGUF file .*No such file.*",
            "A file of it was deleted meanwhile: pull the model again.",
        ),
        (
            r"lora adapter: .*|failed to load lora adapter.*",
            "Its adapter is not made for it: take one that is, or the model without it.",
        ),
        (
            r"[Ff]ailed to load CLIP model.*|failed to load multimodal model.*",
            "Its projector is not made for it, or is damaged: pull the model again, or take another.",
        ),
        (
            r"failed to allocate.*|unable to allocate.*|cannot allocate.*|std::bad_alloc.*",
            "A worker has less memory than it was said to have: lower memory_gb of that worker, "
            "or the context.",
        ),
        (
            r"failed to open GGUF file .*Permission denied.*",
            "Let the user that runs SOLLOL read the file.",
        ),
        (
            r"failed to open GGUF file.*",
            "See that the file is there, and that the user who runs SOLLOL may read it.",
        ),
        (
            r"unknown model architecture: .*",
            "This llama.cpp does not know the model: install a newer one on all machines.",
        ),
        (r"error loading model: .*", "Pull the model again, or take another file of it."),
        (r"invalid argument: .*", "This llama.cpp is too old or too new for SOLLOL."),
        (r"error while handling argument.*", "This llama.cpp is too old or too new for SOLLOL."),
        (r"error while loading shared libraries.*", "Install llama.cpp again."),
        (r"GGML_ASSERT\(.*|terminate called.*", "It is a fault of llama.cpp; try a newer one."),
        (
            r"couldn't bind HTTP server socket.*",
            "Other programs take the ports of this machine: ask again, or see which ones listen.",
        ),
        (
            r"cannot run .*: Permission denied",
            "Let the user that runs SOLLOL execute llama-server.",
        ),
        (r"cannot run .*", "Install llama.cpp again."),
    )
)


def reason(lines: Sequence[str]) -> str:
    """Return what to do, then the line that tells most; empty if none tells anything."""
    for pattern, advice in _CAUSES:
        for line in lines:
            if match := pattern.search(line):
                return f"{advice} ({match[0].strip()[:MAX_REASON_CHARACTERS]})"
    return ""


def is_worker_lost(lines: Sequence[str]) -> bool:
    """Say whether it ended as a worker could not be reached or used."""
    return any(_WORKER_LOST.search(line) for line in lines)
