"""A model as people name it, brought to what a plan needs: its files and its facts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sollol.sharding.facts import CHAT_TEMPLATE, TOOL_TEMPLATE, ModelFacts, in_order, model_facts
from sollol.sharding.gguf import read_header
from sollol.sharding.ollama_store import StoredModel, find_model
from sollol.sharding.support import check_runs
from sollol.sharding.template import knows_tools


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model whose files are on this machine and which llama.cpp can run.

    ``chat_template``: the Jinja template in its file, empty without one; ``tool_template``: another one
    for tools, which few have. ``has_pooling``: the file says how embeddings are made of tokens.
    """

    stored: StoredModel
    facts: ModelFacts
    chat_template: str = ""
    has_pooling: bool = False
    tool_template: str = ""

    @property
    def knows_tools(self) -> bool:
        """Whether it can be given tools, as llama.cpp runs it."""
        return knows_tools(self.chat_template, self.stored.template, self.tool_template)


def read_model(text: str, stores: Sequence[Path]) -> LocalModel:
    """Return a model of an Ollama store, or of a GGUF file whose path ends in ``.gguf``. Blocks.

    Of a file in several parts any part may be named: ``NAME-00001-of-00003.gguf``.

    Raises:
        InvalidRequest: it is neither a name nor a path.
        ModelNotFound: there is no such model.
        ModelBroken: a file is missing, damaged or incomplete.
        UnsupportedByEngine: llama.cpp cannot run it, or it cannot be split.
    """
    path = Path(text)
    is_path = path.suffix == ".gguf" and ":" not in path.name  # a tag may end so: hf.co/a/b:c.gguf
    return local_model(_own_file(path) if is_path else find_model(text, stores))


def local_model(stored: StoredModel) -> LocalModel:
    """Return a model with its facts. Blocks.

    Raises:
        ModelBroken: a file is damaged or incomplete.
        UnsupportedByEngine: llama.cpp cannot run it, or it cannot be split.
    """
    headers = [read_header(path) for path in stored.parts]
    check_runs(headers, stored.kinds)
    beside = sum(path.stat().st_size for path in (*stored.projectors, *stored.adapters))
    facts = model_facts(headers, beside)
    first, *_ = parts = in_order(headers)
    return LocalModel(
        replace(stored, parts=tuple(part.path for part in parts)),
        facts,
        chat_template=str(first.fields.get(CHAT_TEMPLATE, "")),
        has_pooling=f"{facts.architecture}.pooling_type" in first.fields,
        tool_template=str(first.fields.get(TOOL_TEMPLATE, "")),
    )


def _own_file(path: Path) -> StoredModel:
    """Return a file outside of a store, with the parts beside it that belong to it."""
    path = path.expanduser()
    stem, _, count = path.stem.rpartition("-of-")
    base, _, number = stem.rpartition("-")
    if not (base and number.isdecimal() and count.isdecimal() and len(number) == len(count)):
        return StoredModel(path.stem, None, (path,), kinds=("model",))
    parts = sorted(path.parent.glob(f"{_literal(base)}-*-of-{count}.gguf"))
    return StoredModel(base, None, tuple(parts) or (path,), kinds=("model",))


def _literal(text: str) -> str:
    """Return a pattern that only ``text`` matches."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)
