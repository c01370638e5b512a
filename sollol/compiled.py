"""Whether this installation was made by ``make compiled``."""

from importlib.util import find_spec


def is_compiled() -> bool:
    """Return whether the hot path is C: the scheduler is where any of it is."""
    spec = find_spec("sollol.scheduling.scheduler")
    return spec is not None and not (spec.origin or "").endswith(".py")
