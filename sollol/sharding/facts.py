"""What a plan must know of a model, from the headers of its files."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sollol.errors import ModelBroken
from sollol.sharding.cache_layout import CACHELESS, LayerCache, layer_caches
from sollol.sharding.fields import Fields
from sollol.sharding.gguf import ADVICE, Header, Tensor

CHAT_TEMPLATE = "tokenizer.chat_template"
TOOL_TEMPLATE = f"{CHAT_TEMPLATE}.tool_use"
_LAYER = re.compile(r"blk\.(\d+)\.").match
_INPUTS = ("token_embd.", "position_embd.", "token_types.", "per_layer_token_embd.")
_OF_FIRST_LAYER = ("token_embd_norm.", "per_layer_model_proj.", "per_layer_proj_norm.")
_SHARED = ("rope_freqs.", "rope_factors_long.", "rope_factors_short.")
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True, slots=True)
class Unit:
    """What lies on one device as a whole: a layer, or at last the output.

    ``expert_bytes`` is the part of ``weight_bytes`` of which a token uses only some.
    """

    weight_bytes: int = 0
    expert_bytes: int = 0
    largest_tensor_bytes: int = 0
    cache: LayerCache = field(default_factory=LayerCache)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as a plan sees it.

    ``units``: every layer, then the output. ``input_bytes`` stay with the coordinator;
    ``shared_bytes`` lie on every device. ``activation_width``: elements that are in use at once
    for each token of a batch. ``side_bytes``: of projectors and adapters, loaded beside it.
    """

    architecture: str
    name: str
    context_length: int
    embedding_length: int
    activation_width: int
    vocabulary: int
    experts: int
    experts_used: int
    has_chat_template: bool
    file_bytes: int
    input_bytes: int
    shared_bytes: int
    side_bytes: int
    units: tuple[Unit, ...]

    @property
    def layer_count(self) -> int:
        """Layers, without the output."""
        return len(self.units) - 1

    @property
    def weight_bytes(self) -> int:
        """What all devices together hold of the weights, once each."""
        return self.input_bytes + self.shared_bytes + sum(u.weight_bytes for u in self.units)


def model_facts(headers: Sequence[Header], side_bytes: int = 0) -> ModelFacts:
    """Return the facts of a model of one file, or of several parts in any order.

    Raises:
        ModelBroken: a field or a part is missing, or makes no sense.
        UnsupportedByEngine: it cannot be split, see :func:`layer_caches`.
    """
    first, *_ = parts = in_order(headers)
    fields = Fields(first.fields)
    tensors = [tensor for part in parts for tensor in part.tensors]
    embedding = next((t for t in tensors if t.name == _EMBEDDING), None)
    if embedding is None:
        raise ModelBroken(f"The GGUF file has no tensor {_EMBEDDING!r}. {ADVICE}.")
    experts = fields.number("expert_count", 0)
    return ModelFacts(
        architecture=fields.architecture,
        name=str(first.fields.get("general.name", "")),
        context_length=fields.number("context_length", 0),
        embedding_length=fields.number("embedding_length"),
        activation_width=_activation_width(fields, experts),
        vocabulary=first.lengths.get("tokenizer.ggml.tokens", 0) or embedding.dimensions[-1],
        experts=experts,
        experts_used=max(fields.per_layer("expert_used_count", 0)),
        has_chat_template=CHAT_TEMPLATE in first.fields,
        file_bytes=sum(part.file_bytes for part in parts),
        input_bytes=sum(t.size_bytes for t in tensors if t.name.startswith(_INPUTS)),
        shared_bytes=sum(t.size_bytes for t in tensors if t.name.startswith(_SHARED)),
        side_bytes=side_bytes,
        units=_units(fields, tensors, embedding),
    )


def in_order(headers: Sequence[Header]) -> list[Header]:
    """Return the parts of one model in their order.

    Raises:
        ModelBroken: not every part is there exactly once.
    """
    count = headers[0].fields.get("split.count", 1) or 1
    parts = sorted(headers, key=lambda header: str(header.fields.get("split.no", 0)).zfill(9))
    numbers = [part.fields.get("split.no", 0) for part in parts]
    if count != len(parts) or numbers != list(range(len(parts))):
        raise ModelBroken(
            f"The model has {count} parts, but there are {len(parts)}, numbered "
            f"{', '.join(map(str, numbers))}. {ADVICE}."
        )
    return parts


def _activation_width(fields: Fields, experts: int) -> int:
    """Return the most that the three parts of a layer need: attention, states, feed-forward."""
    embedding = fields.number("embedding_length")
    dense = max(fields.per_layer("feed_forward_length", 0))
    used = max(fields.per_layer("expert_used_count", 0)) if experts else 0
    routed = used * max(fields.per_layer("expert_feed_forward_length", dense))
    heads = max(fields.per_layer("attention.head_count", 0))
    attending = heads * fields.number("attention.key_length", 0)
    remembering = fields.number("ssm.inner_size", 0)
    return 3 * embedding + max(3 * dense, 3 * routed, 3 * attending, 4 * remembering)


def _units(fields: Fields, tensors: Sequence[Tensor], embedding: Tensor) -> tuple[Unit, ...]:
    count = fields.layer_count
    loaded = count - fields.number("nextn_predict_layers", 0)
    groups: list[list[Tensor]] = [[] for _ in range(count + 1)]
    for tensor in tensors:
        index = _unit_index(tensor.name, count)
        if index is not None and (index < loaded or index == count):
            groups[index].append(tensor)
    if fields.architecture not in CACHELESS and not any(t.name == _OUTPUT for t in tensors):
        groups[count].append(embedding)  # its device gets a copy
    caches = (*layer_caches(fields), LayerCache())
    return tuple(_unit(group, cache) for group, cache in zip(groups, caches, strict=True))


def _unit_index(name: str, layer_count: int) -> int | None:
    """Return the index of a tensor's unit; None for what is not in a unit."""
    if match := _LAYER(name):
        index = int(match[1])
        if index >= layer_count:
            raise ModelBroken(
                f"The GGUF file has a tensor {name!r}, but {layer_count} layers. {ADVICE}."
            )
        return index
    if name.startswith(_OF_FIRST_LAYER):
        return 0
    return None if name.startswith((*_INPUTS, *_SHARED)) else layer_count


def _unit(tensors: Iterable[Tensor], cache: LayerCache) -> Unit:
    sizes = [tensor.size_bytes for tensor in tensors]
    expert_bytes = sum(tensor.size_bytes for tensor in tensors if "_exps." in tensor.name)
    return Unit(sum(sizes), expert_bytes, max(sizes, default=0), cache)
