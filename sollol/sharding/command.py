"""The command line of the llama-server that runs a plan. Pure.

Nothing of a model may become an option of its own: texts that come from files or people are the
values of options, and numbers are checked. Files go by absolute paths, or by links without a comma,
where llama-server takes a list.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sollol.sharding.defaults import options_of
from sollol.sharding.memory import BATCH_TOKENS
from sollol.sharding.models import LocalModel
from sollol.sharding.ollama_store import StoredModel
from sollol.sharding.plan import Plan
from sollol.sharding.template import choose_template

FULL_PRECISION = ("f32", "f16", "bf16")
"""Of values in the cache; others can only be computed with flash attention."""
_OPTIONS = {
    "temperature": "--temp",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "typical_p": "--typical",
    "repeat_penalty": "--repeat-penalty",
    "presence_penalty": "--presence-penalty",
    "frequency_penalty": "--frequency-penalty",
    "top_k": "--top-k",
    "seed": "--seed",
    "repeat_last_n": "--repeat-last-n",
    "num_keep": "--keep",
    "num_predict": "--predict",
}


@dataclass(frozen=True, slots=True)
class Launch:
    """What the command line needs besides the plan and the model.

    ``name``: what requests call the model. ``directory`` has the links of :func:`links` and is the
    working directory. ``devices``: how many each worker has, by its address; 1 if not told.
    ``is_mapped``: the model's file is mapped, not read; see :mod:`sollol.sharding.loading`.
    """

    name: str
    directory: Path
    threads: int
    devices: Mapping[str, int]
    is_mapped: bool = False


def links(stored: StoredModel) -> dict[str, Path]:
    """Return the links that llama-server needs, by their names.

    It finds the parts of a model by their names, which blobs of a store do not have; and of
    adapters it takes a list, separated by commas, which a path may have.
    """
    count = len(stored.parts)
    parts = {
        f"model-{number:05}-of-{count:05}.gguf": path.absolute()
        for number, path in enumerate(stored.parts, 1)
        if count > 1
    }
    adapters = {
        f"adapter-{number}.gguf": path.absolute() for number, path in enumerate(stored.adapters)
    }
    return parts | adapters


def server_arguments(plan: Plan, model: LocalModel, launch: Launch) -> list[str]:
    """Return the command line of llama-server without program, address and key."""
    return [
        *_logging(),
        *_pairs(_model(model.stored, launch)),
        *_pairs(_placement(plan, launch)),
        *_pairs(_running(plan, launch)),
        *_serving(model, launch),
        *_template(model),
        *_pairs(_defaults(model.stored.parameters)),
    ]


def _logging() -> list[str]:
    """Say where everything lies, from the first line on; nobody reads times or colours."""
    return ["--log-verbosity", "4", "--no-log-prefix", "--no-log-timestamps"]


def _model(stored: StoredModel, launch: Launch) -> Iterator[tuple[str, str]]:
    linked = list(links(stored))
    is_split = len(stored.parts) > 1
    yield "--model", str(launch.directory / linked[0] if is_split else stored.parts[0].absolute())
    yield "--alias", launch.name
    for projector in stored.projectors:
        yield "--mmproj", str(projector.absolute())
    if stored.adapters:
        yield "--lora", ",".join(linked[-len(stored.adapters) :])


def _placement(plan: Plan, launch: Launch) -> Iterator[tuple[str, str]]:
    """Name the devices, so that no other is used, and a worker that is not there is an error."""
    yield "--n-gpu-layers", str(plan.gpu_layers)
    yield "--fit", "off"
    if not plan.shares:
        yield "--device", "none"
        return
    counts = [max(launch.devices.get(share.worker.name, 1), 1) for share in plan.shares]
    split = [
        number
        for share, count in zip(plan.shares, counts, strict=True)
        for number in _spread(share.end - share.first, count)
    ]
    yield "--rpc", ",".join(share.worker.name for share in plan.shares)
    yield "--device", ",".join(f"RPC{index}" for index in range(len(split)))
    yield "--split-mode", "layer"
    yield "--tensor-split", ",".join(map(str, split))


def _spread(units: int, devices: int) -> list[int]:
    """Return how many units each device of one worker gets."""
    return [units * (index + 1) // devices - units * index // devices for index in range(devices)]


def _running(plan: Plan, launch: Launch) -> Iterator[tuple[str, str]]:
    options = plan.options
    yield "--ctx-size", str(options.context_length * options.slots)
    yield "--parallel", str(options.slots)
    yield "--ubatch-size", str(_batch_tokens(options.slots))
    yield "--threads", str(launch.threads)
    yield "--cache-type-k", options.key_type
    yield "--cache-type-v", options.value_type
    if options.value_type not in FULL_PRECISION:
        yield "--flash-attn", "on"
    yield "--cache-ram", "0"  # would keep up to 8 GiB of old prompts
    yield "--ctx-checkpoints", "2"


def _batch_tokens(slots: int) -> int:
    """Return the largest batch that the plan knows and that the slots share evenly.

    With ``--pooling mean`` llama-server aborts at any other.
    """
    return max(BATCH_TOKENS // slots, 1) * slots


def _serving(model: LocalModel, launch: Launch) -> list[str]:
    """Return flags. There is no request to warm up with: a real one waits."""
    flags = ["--no-warmup", "--no-webui", "--no-slots", "--offline", "--no-escape"]
    if not launch.is_mapped:
        flags.append("--no-mmap")
    if model.stored.projectors:
        flags.append("--no-mmproj-offload")  # the plan has it on the coordinator
    pooling = [] if model.has_pooling else ["--pooling", "mean"]
    return [*flags, "--embeddings", *pooling]


def _template(model: LocalModel) -> list[str]:
    """With ``--jinja`` the name of a built-in template would be the whole text of every prompt."""
    name = choose_template(model.chat_template, model.stored.template).built_in
    return ["--no-jinja", "--chat-template", name] if name else ["--jinja"]


def _defaults(parameters: str | None) -> Iterator[tuple[str, str]]:
    """Yield the model's own numbers, for requests that set none; the context is the plan's."""
    for name, value in options_of(parameters).items():
        if name in _OPTIONS:
            yield _OPTIONS[name], str(value)


def _pairs(options: Iterator[tuple[str, str]]) -> list[str]:
    return [word for pair in options for word in pair]
