"""Times as Go writes them in JSON: RFC 3339 with up to nine digits of seconds, in any zone."""

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=32768)  # lists of models are read again and again; parsing takes microseconds
def unix_time(text: str) -> float:
    """Return seconds since 1970; 0 for a text that is no time, and a time without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
