"""The metadata of a model as numbers within bounds, single ones and one for each layer."""

from collections.abc import Mapping

from sollol.errors import ModelBroken
from sollol.sharding.gguf import ADVICE, Value

MAX_LAYERS = 512
"""llama.cpp has room for no more."""
MAX_NUMBER = 1 << 32
ARCHITECTURE = "general.architecture"


class Fields:
    """The fields of one model; ``key`` in the methods lacks the name of the architecture."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        """Take the fields of a header.

        Raises:
            ModelBroken: there is no architecture, or no usable number of layers.
        """
        self._values = values
        architecture = values.get(ARCHITECTURE)
        if not isinstance(architecture, str) or not architecture:
            raise ModelBroken(f"The GGUF file does not name its architecture. {ADVICE}.")
        self.architecture = architecture
        self.layer_count = self.number("block_count")
        if not 1 <= self.layer_count <= MAX_LAYERS:
            raise self._wrong("block_count", self.layer_count)

    def has(self, key: str) -> bool:
        """Say whether there is such a field."""
        return self._name(key) in self._values

    def number(self, key: str, default: int | None = None) -> int:
        """Return a whole number from 0 to ``MAX_NUMBER``.

        Raises:
            ModelBroken: it is missing and has no default, or is something else.
        """
        value = self._values.get(self._name(key), default)
        return self._checked(key, value)

    def per_layer(self, key: str, default: int) -> tuple[int, ...]:
        """Return a number for each layer; one number stands for all.

        Raises:
            ModelBroken: it is neither a number nor one for each layer at least.
        """
        value = self._values.get(self._name(key), default)
        if not isinstance(value, tuple):
            return (self._checked(key, value),) * self.layer_count
        if len(value) < self.layer_count:
            raise self._wrong(key, f"an array of {len(value)}")
        return tuple(self._checked(key, number) for number in value[: self.layer_count])

    def flags(self, key: str) -> tuple[bool, ...] | None:
        """Return a yes or no for each layer; None where the field is missing or a single number."""
        if not isinstance(self._values.get(self._name(key)), tuple):
            return None
        return tuple(bool(number) for number in self.per_layer(key, 0))

    def _name(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def _checked(self, key: str, value: object) -> int:
        if isinstance(value, bool):
            return int(value)
        if not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
            raise self._wrong(key, "missing" if value is None else value)
        return value

    def _wrong(self, key: str, value: object) -> ModelBroken:
        return ModelBroken(f"In the GGUF file {self._name(key)} is {value}. {ADVICE}.")
