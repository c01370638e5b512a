"""What a planted bug is, and all of them.

Each is one edit of one file that a person might make, or undo; its reason says what it breaks.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bug:
    """A text in a file of ``sollol/`` that stands there once, and what is put in its place."""

    name: str
    file: str
    old: str
    new: str
    breaks: str


def all_bugs() -> tuple[Bug, ...]:
    """Return every bug; those of one file are together."""
    from tests.planted.bugs_of_gateway import BUGS as GATEWAY
    from tests.planted.bugs_of_nodes import BUGS as NODES
    from tests.planted.bugs_of_scheduling import BUGS as SCHEDULING

    return (*GATEWAY, *NODES, *SCHEDULING)
