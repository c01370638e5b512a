"""A table of a report, as rows of text; how it looks is the page's business."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, a sentence, the names of the columns, and the rows."""

    title: str
    about: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
