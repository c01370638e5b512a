"""How a command fails: lines for a person and an exit code, never a traceback."""

from collections.abc import Iterable


class CommandError(Exception):
    """Ends a command; ``main`` prints ``lines`` to standard error and exits with ``exit_code``."""

    def __init__(self, lines: str | Iterable[str], *, exit_code: int = 1) -> None:
        self.lines = (lines,) if isinstance(lines, str) else tuple(lines)
        self.exit_code = exit_code
        super().__init__("\n".join(self.lines))
