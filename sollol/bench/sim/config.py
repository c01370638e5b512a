"""What a simulated node is: its models, its memory and its speeds."""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

GIB = 1024**3
_PARAMETERS = re.compile(r"(\d+(?:\.\d+)?)([bm])\b", re.IGNORECASE)
_EMBEDDERS = ("embed", "minilm", "bge", "e5")
_THINKERS = ("qwen3", "deepseek-r1", "gpt-oss", "magistral")
_GIB_PER_BILLION = 0.62  # 4-bit weights with their embedding tables


@dataclass(frozen=True, slots=True)
class SimModel:
    """A model on a node's disk.

    ``digest`` (64 hex digits) follows from the name unless given, so that two nodes with a model
    of the same name hold the same model and answer with the same text.
    """

    name: str
    size_gib: float = 2.0
    capabilities: tuple[str, ...] = ("completion",)
    context_length: int = 8192
    embedding_length: int = 64
    family: str = "llama"
    parameter_size: str = "3.2B"
    quantization: str = "Q4_K_M"
    digest: str = ""
    closes_turn: bool = False
    """Whether its template ends an answer that a request begins, instead of going on with it."""

    def __post_init__(self) -> None:
        if not self.digest:
            hashed = hashlib.sha256(f"model {self.name.lower()}".encode()).hexdigest()
            object.__setattr__(self, "digest", hashed)

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights."""
        return int(self.size_gib * GIB)

    @property
    def only_embeds(self) -> bool:
        """Whether the model cannot generate text."""
        return "embedding" in self.capabilities and "completion" not in self.capabilities


def guess_model(name: str) -> SimModel:
    """Return a model whose size and capabilities are guessed from its name, as ``qwen3:8b``."""
    lowered = name.lower()
    found = _PARAMETERS.search(lowered.partition(":")[2] or lowered)
    billions = 3.2 if found is None else float(found[1]) / (1000 if found[2] == "m" else 1)
    if any(word in lowered for word in _EMBEDDERS):
        return SimModel(name, 0.3, ("embedding",), 2048, 768, "nomic-bert", "137M", "F16")
    thinking = ("thinking",) if lowered.startswith(_THINKERS) else ()
    return SimModel(
        name,
        size_gib=round(billions * _GIB_PER_BILLION, 3),
        capabilities=("completion", "tools", *thinking),
        context_length=131072,
        embedding_length=3072,
        family=lowered.partition(":")[0].strip("0123456789.-") or "llama",
        parameter_size=f"{billions:g}B",
    )


@dataclass(frozen=True, slots=True)
class SimConfig:
    """How a node behaves.

    ``time_scale`` multiplies every simulated duration: 1 is real time, 0.01 a hundred times
    faster, 0 immediate. Reported durations are the unscaled ones. ``keep_alive`` is scaled like
    the rest, except at 0, where it is counted in real seconds.
    """

    models: tuple[SimModel, ...] = ()
    slots: int = 1
    """Sequences at once for one model (``OLLAMA_NUM_PARALLEL``); 1 for embedding models."""
    vram_gib: float = 24.0
    max_loaded: int = 3
    """Models in memory at once (``OLLAMA_MAX_LOADED_MODELS``)."""
    max_queue: int = 512
    """Requests that may wait for a load (``OLLAMA_MAX_QUEUE``); a loaded model has no bound."""
    keep_alive_s: float = 300.0
    kv_bytes_per_token: int = 0
    """Memory of a loaded model beyond its weights, per token of context and slot."""
    prefix_cache_tokens: int = 262_144
    """Prompt tokens a loaded model remembers over all conversations."""
    reports_cached_count: bool = False
    """Whether answers carry ``prompt_eval_cached_count``, as newer versions do."""
    load_gib_per_s: float = 2.0
    prefill_tok_s: float = 2000.0
    decode_tok_s: float = 50.0
    embed_tok_s: float = 5000.0
    reference_gib: float = 0.0
    """Size of the model that the speeds of prompts and answers hold for; others are slower or faster by
    their size. 0: all models have the same speeds."""
    pull_gib_per_s: float = 0.1
    blob_bytes_per_s: float = 0.0
    """If above 0, how fast an uploaded blob is read, in real time; the sender is held back."""
    batch_slowdown: float = 0.25
    """Share by which each further sequence on the node lengthens a decode step."""
    time_scale: float = 0.0
    chunk_interval_s: float = 0.0
    """If above 0, the real seconds from one token to the next, whatever ``time_scale`` says."""
    registry: tuple[SimModel, ...] | None = None
    """Models that can be pulled; ``None`` means any name."""
    version: str = "0.33.0"
    installed_at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    """When the first model was put on the disk; no two real nodes have this in common."""
    host: str = "127.0.0.1"
    port: int = 0
    control_port: int | None = None
    """Port of the side channel (``/sim/...``): 0 for any free one, ``None`` for no side channel."""
    keep_requests: int = 10_000
    """How many of the newest requests ``SimNode.requests`` holds."""

    @property
    def vram_bytes(self) -> int:
        """Bytes of accelerator memory."""
        return int(self.vram_gib * GIB)

    def size_slowdown(self, model: SimModel) -> float:
        """Return the factor on the seconds per token of prompts and answers of a model."""
        return model.size_gib / self.reference_gib if self.reference_gib else 1.0

    @property
    def is_on_loopback(self) -> bool:
        """Whether only this machine can reach the node."""
        return self.host == "localhost" or self.host.startswith(("127.", "::1"))

    @property
    def default_context(self) -> int:
        """Tokens of context a model is loaded with when the request names none."""
        if self.vram_gib >= 47:
            return 262_144
        return 32_768 if self.vram_gib >= 23 else 4096
