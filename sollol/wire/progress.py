"""The progress of several nodes as one stream of records that an Ollama client understands; pure.

1. A status line is passed on when the first node says it, once.
2. Of a layer, the node that is furthest behind is passed on: ``completed`` is the least of the
   nodes that move the layer, never falls, and ``total`` never changes.
3. ``success`` comes last, and only when all nodes said it; else the last record is an error.

Whoever reads slowly gets fewer records of a layer, not older ones: what is held is one record for
each layer and status line.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from sollol.errors import ProtocolViolation

MAX_LINES = 4096
"""Different layers and status lines that a node may be the first to tell of; models have tens."""

MAX_LINE_BYTES = 4096
"""The longest record that is kept; real ones have 200 bytes."""


def failure_text(errors: Mapping[str, str], succeeded: Sequence[str]) -> str:
    """Return what went wrong on which node, and where it went well; empty when nothing did.

    What all nodes say alike is said as one node says it.
    """
    texts = set(errors.values())
    if not succeeded and len(texts) == 1:
        return texts.pop()
    failed = "; ".join(f"node {node}: {text}" for node, text in errors.items())
    return f"{failed}; succeeded on {', '.join(succeeded)}" if failed and succeeded else failed


class _Record(msgspec.Struct):
    """What of a record is looked at."""

    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0
    error: str = ""


_decode = msgspec.json.Decoder(_Record).decode


@dataclass(slots=True)
class _Layer:
    """A layer that is moved: how far each node is, and how far the client was told."""

    total: int
    told: int = -1
    records: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def next_record(self) -> bytes:
        """Return the record of the node that is furthest behind, or none if that is no news."""
        if not self.records:
            return b""
        completed, line = min(self.records.values(), key=lambda record: record[0])
        if completed <= self.told:
            return b""
        self.told = completed
        return line


class ProgressMerger:
    """Merges the records of nodes; each node ends with ``success``, an error or :meth:`failed`."""

    def __init__(self, nodes: Iterable[str]) -> None:
        self._working = list(nodes)
        self._succeeded: list[str] = []
        self._errors: dict[str, str] = {}
        self.success = b""
        """The record that ends the stream of a node that did what was asked."""
        self._layers: dict[str, _Layer] = {}
        self._statuses: set[str] = set()
        self._ready: dict[str, bytes] = {}
        self._first_told: Counter[str] = Counter()
        """How many layers and status lines each node was the first to tell of."""

    @property
    def is_done(self) -> bool:
        """Whether no node is at work any more."""
        return not self._working

    def is_working(self, node: str) -> bool:
        """Whether a node is at work still."""
        return node in self._working

    @property
    def error(self) -> str:
        """What went wrong, with the nodes where it did and those where it did not; else empty."""
        return failure_text(self._errors, self._succeeded)

    def feed(self, node: str, line: bytes) -> bool:
        """Take a record of a node; return whether it was the node's last, whatever it says.

        Raises:
            ProtocolViolation: it is no record, or one too many.
        """
        try:
            record = _decode(line)
        except (ValueError, RecursionError):
            raise ProtocolViolation("the node sent progress that cannot be read") from None
        if record.error:
            self.failed(node, record.error)
            return True
        if record.status == "success":
            self.success = line
            return True
        if len(line) > MAX_LINE_BYTES:
            raise ProtocolViolation(f"the node sent progress of more than {MAX_LINE_BYTES} bytes")
        if record.total > 0:
            self._move(node, record, line)
        elif record.status not in self._statuses:
            self._count(node)
            self._statuses.add(record.status)
            self._ready["status " + record.status] = line
        return False

    def succeed(self, node: str) -> None:
        """Note that a node has done what was asked."""
        self._working.remove(node)
        self._succeeded.append(node)
        self._leave_layers(node)

    def failed(self, node: str, error: str) -> None:
        """Note that a node will not do what was asked; the others go on."""
        if node not in self._working:
            return
        self._working.remove(node)
        self._errors[node] = error
        self._leave_layers(node)

    def take(self) -> bytes:
        """Return the records that the client was not sent yet, in order, without the last one."""
        lines = list(self._ready.values())
        self._ready.clear()
        return b"".join(lines)

    def _move(self, node: str, record: _Record, line: bytes) -> None:
        name = record.digest or record.status
        layer = self._layers.get(name)
        if layer is None:
            self._count(node)
            layer = self._layers[name] = _Layer(record.total)
        completed = min(record.completed, layer.total)
        if completed < layer.records.get(node, (0, b""))[0]:  # it begins the layer again
            return
        if (record.total, record.completed) != (layer.total, completed):
            line = _rewritten(record, layer.total, completed)
        layer.records[node] = (completed, line)
        self._tell(name, layer)

    def _leave_layers(self, node: str) -> None:
        """Let the layers of a node that ended be those of the others."""
        for name, layer in self._layers.items():
            if layer.records.pop(node, None):
                self._tell(name, layer)

    def _tell(self, name: str, layer: _Layer) -> None:
        line = layer.next_record()
        if line:
            self._ready["layer " + name] = line

    def _count(self, node: str) -> None:
        """Bound what is kept; each node for itself, so that one that babbles fails alone."""
        self._first_told[node] += 1
        if self._first_told[node] > MAX_LINES:
            raise ProtocolViolation(f"the node told of more than {MAX_LINES} layers and steps")


def _rewritten(record: _Record, total: int, completed: int) -> bytes:
    fields = {"status": record.status, "digest": record.digest, "total": total}
    return msgspec.json.encode({**fields, "completed": completed}) + b"\n"
