"""Bases of structs whose modules ``make compiled`` makes C of (docs/decisions/0008).

mypyc drops the keywords of a class, and a struct inherits its options.
"""

import msgspec


class Frozen(msgspec.Struct, frozen=True):
    """It never changes."""


class Leaf(msgspec.Struct, gc=False):
    """It is part of no cycle, so the garbage collector need not look at it."""


class Unequal(msgspec.Struct, eq=False):
    """It equals nothing but itself."""
