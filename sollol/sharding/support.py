"""Why llama.cpp cannot run a model that Ollama can: told before it is tried. Pure.

Ollama adapts files of its own library while it loads them; a plain llama-server refuses those.

Source: Ollama, llama/compat; what llama-server says is in docs/guides/sharding.md.
"""

from collections.abc import Sequence

from sollol.errors import UnsupportedByEngine
from sollol.sharding.fields import ARCHITECTURE
from sollol.sharding.gguf import Header

_OLLAMA_NAMES = {
    "gptoss": "llama.cpp calls this architecture gpt-oss and its tensors otherwise",
    "mllama": "llama.cpp never had Llama 3.2 Vision",
    "qwen25vl": "llama.cpp calls this architecture qwen2vl",
    "deepseekocr": "llama.cpp calls this architecture deepseek2-ocr",
    "glmocr": "the file is made for Ollama's own engine",
    "glm4moelite": "the file is made for Ollama's own engine",
    "olmo3": "llama.cpp calls this architecture olmo2",
    "nemotron_h_omni": "the file is made for Ollama's own engine",
}
_PARTS = {"v.": "a vision part", "mm.": "a projector", "a.": "an audio part", "mtp.": "MTP layers"}
_NEEDED = {"gemma3": "gemma3.attention.layer_norm_rms_epsilon"}
_HELP = (
    "Use a GGUF made for llama.cpp in its place, such as one that `ollama pull hf.co/...` brings, "
    "or run it on one Ollama node."
)


def check_runs(headers: Sequence[Header], kinds: Sequence[str] = ()) -> None:
    """Return if nothing is known that keeps llama.cpp from running the model.

    Args:
        headers: of the parts of its weights; none if it has no GGUF file.
        kinds: of its layers in an Ollama store.

    Raises:
        UnsupportedByEngine: with the reason and what to do.
    """
    reason = _reason(headers, kinds)
    if reason is not None:
        raise UnsupportedByEngine(f"llama.cpp cannot run this model: {reason}. {_HELP}")


def _reason(headers: Sequence[Header], kinds: Sequence[str]) -> str | None:
    if not headers:
        is_tensors = any("tensor" in kind for kind in kinds)
        return "its weights are safetensors, not GGUF" if is_tensors else "it has no weights"
    fields = headers[0].fields
    architecture = str(fields.get(ARCHITECTURE, ""))
    kind = fields.get("general.type", "model")
    if kind != "model" or architecture == "clip":
        part = f"a part of one ({kind}, {architecture}), which is to be asked for instead"
        return f"the file is no model of its own, but {part}"
    if architecture in _OLLAMA_NAMES:
        return f"its architecture is {architecture!r}; {_OLLAMA_NAMES[architecture]}"
    for prefix, part in _PARTS.items():
        if any(t.name.startswith(prefix) for header in headers for t in header.tensors):
            return f"the file holds {part} ({prefix}*), which llama.cpp wants in a file of its own"
    needed = _NEEDED.get(architecture)
    if needed is not None and needed not in fields:
        return f"the file lacks {needed}"
    return None
