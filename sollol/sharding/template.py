"""Which chat template a model is run with. Pure.

Ollama has Go templates. llama.cpp takes the Jinja template in the GGUF file, or one of those that it
has built in, which know no tools. Templates of both kinds show their family by the tokens around a
turn; where they differ, Ollama's is the one that people see working.
"""

import re
from dataclasses import dataclass

ADVICE = "Run it on one Ollama node, or take a GGUF made for llama.cpp, if its chats look wrong."


@dataclass(frozen=True, slots=True)
class Template:
    """The choice. ``built_in``: a name of llama.cpp's, or empty for the GGUF file's own template.

    ``note`` is a sentence for people where something is lost.
    """

    built_in: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Family:
    """Templates with one way to mark a turn: the pattern of it, and which are built in.

    The first of ``built_in`` whose text is in the template counts.
    """

    mark: re.Pattern[str]
    built_in: tuple[tuple[str, str], ...]


def _family(mark: str, *built_in: tuple[str, str] | str) -> _Family:
    named = tuple((one, "") if isinstance(one, str) else one for one in built_in)
    return _Family(re.compile(mark), named)


_FAMILIES = (
    _family(r"<\|channel\|>", "gpt-oss"),
    _family(r"<\|header_start\|>", "llama4"),
    _family(r"<\|start_header_id\|>", "llama3"),
    _family(r"<start_of_turn>", "gemma"),
    _family(r"<\|START_OF_TURN_TOKEN\|>", "command-r"),
    _family(r"<\|start_of_role\|>", "granite"),
    _family("<\uff5cUser\uff5c>", "deepseek3"),
    _family(r"<\|im_middle\|>", "kimi-k2"),
    _family(r"<\|im_sep\|>", "phi4"),
    _family(r"<\|im_start\|>", "chatml"),
    _family(r"\[\|user\|\]", "exaone3"),
    _family(
        r"<\|user\|>|['\"]<\|['\"] ?\+",
        ("chatglm4", "[gMASK]"),
        ("phi3", "<|end|>"),
        ("zephyr", "</s>"),
        ("zephyr", "<|endoftext|>"),
        "falcon3",
    ),
    _family(
        r"\[INST\]",
        ("llama2-sys", "<<SYS>>"),
        ("mistral-v7", "[SYSTEM_PROMPT]"),
        ("mistral-v3", "[AVAILABLE_TOOLS]"),
        "mistral-v1",
    ),
    _family(r"GPT4 Correct", "openchat"),
    _family(r"### Instruction:", "deepseek"),
    _family(r"USER:", ("vicuna-orca", "SYSTEM:"), "vicuna"),
)


BUILT_IN = tuple(dict.fromkeys(name for family in _FAMILIES for name, _ in family.built_in))
"""Every name that may be chosen."""


def choose_template(in_file: str, of_ollama: str | None) -> Template:
    """Return which template to use.

    1. Ollama brings none, or one that says nothing of chats: the file's own.
    2. The file has one of the same family: it, as it may know tools too.
    3. The family is built into llama.cpp: that one.
    4. The family is unknown: the file's own, with a note.

    Args:
        in_file: ``tokenizer.chat_template`` of the GGUF file; empty if it has none.
        of_ollama: the Go template of the model.
    """
    if not of_ollama or not _is_chat(of_ollama):
        return Template()
    family = _family_of(of_ollama)
    if family is None:
        return Template(note=_unknown(in_file))
    if in_file and _family_of(in_file) is family:
        return Template()
    name = next(name for name, text in family.built_in if text in of_ollama)
    return Template(name, f"It chats with llama.cpp's template {name!r}, which knows no tools.")


def knows_tools(in_file: str, of_ollama: str | None, tool_template: str = "") -> bool:
    """Say whether a model that is run with the chosen template can be given tools.

    Args:
        in_file, of_ollama: see :func:`choose_template`.
        tool_template: the file's second template, which llama.cpp takes for tools.
    """
    is_own = not choose_template(in_file, of_ollama).built_in
    return is_own and bool(tool_template or "tools" in in_file)


def _is_chat(template: str) -> bool:
    """Say whether a Go template does more than to hand on the prompt."""
    return bool(re.sub(r"\{\{-?\s*\.Prompt\s*-?\}\}", "", template).strip())


def _family_of(template: str) -> _Family | None:
    return next((family for family in _FAMILIES if family.mark.search(template)), None)


def _unknown(in_file: str) -> str:
    used = "the one in its file" if in_file else "ChatML, as its file has none either"
    return f"llama.cpp has no chat template like Ollama's for it and uses {used}. {ADVICE}"
