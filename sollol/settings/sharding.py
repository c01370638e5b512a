"""Settings of sharding: the workers that hold the parts of a model, and how it is run."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from sollol.settings.address import host_of, is_loopback, worker_address
from sollol.settings.values import Count, ExpandedPath, Group, Seconds, listed, parsed_json

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_LOOPBACK_ROUND_TRIP_S, _ROUND_TRIP_S = 0.00005, 0.0005
_LOOPBACK_GBIT_PER_S, _GBIT_PER_S = 20.0, 1.0
LOCAL_LINK = _LOOPBACK_ROUND_TRIP_S, _LOOPBACK_GBIT_PER_S * 1e9 / 8
"""Of a worker on this machine: seconds of a round trip, and bytes a second."""
LOCAL_WORKER = "127.0.0.1:*"
"""What stands for the address of the gateway's own worker while none runs: its port is found then."""


def worker_list(value: object) -> object:
    """Accept ``host:port=GB`` separated by commas, or a JSON list of mappings."""
    if not isinstance(value, str | list | tuple):
        raise ValueError("expected a list of workers")
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return listed(value)
    return parsed_json(value)


class WorkerSettings(Group):
    """A worker, that is, an RPC server of llama.cpp: `host:port=GB`, or this mapping."""

    address: Annotated[str, AfterValidator(worker_address)]
    """Where it listens; port 50052 when it names none. Never a public address."""
    memory_gb: Positive
    """What it may take of its memory, in units of 1024^3 bytes; a worker on a CPU would call all
    of it free."""
    memory_gb_per_s: Positive = 20.0
    """How fast it reads its memory, in 10^9 bytes a second; foretells the speed of answers."""
    round_trip_s: Seconds | None = None
    """Seconds of a round trip to it; measured when not given. Until it answers 0.0005, or 0.00005 on
    this machine."""
    gbit_per_s: Positive | None = None
    """What the network to it carries; measured when not given. Until it answers 1, or 20 on this
    machine."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        address, equals, memory_gb = value.rpartition("=")
        if not equals:
            raise ValueError(f"expected host:port=GB, such as {value}=16")
        return {"address": address, "memory_gb": memory_gb}

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine."""
        return is_loopback(host_of(self.address))

    @property
    def memory_bytes(self) -> int:
        """What it may take of its memory."""
        return int(self.memory_gb * 1024**3)

    @property
    def link(self) -> tuple[float, float]:
        """Seconds of a round trip, and bytes a second."""
        round_trip_s = _LOOPBACK_ROUND_TRIP_S if self.is_local else _ROUND_TRIP_S
        gbit_per_s = _LOOPBACK_GBIT_PER_S if self.is_local else _GBIT_PER_S
        return self.round_trip_s or round_trip_s, (self.gbit_per_s or gbit_per_s) * 1e9 / 8


class ShardingSettings(Group):
    """One model over several machines. `sollol shard plan` shows what would be done."""

    workers: Annotated[tuple[WorkerSettings, ...], BeforeValidator(worker_list)] = ()
    """The workers: `host:port=GB`, or mappings for what that cannot say."""
    models: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(listed)] = ()
    """Models that are always run over the workers: names, or patterns such as `*:70b`. Others are when
    no node has them, or has the memory for them."""
    local_worker_gb: Positive | None = None
    """Run a worker on this machine as long as the gateway runs, which may take so much of its memory,
    in units of 1024^3 bytes; none when not given."""
    store: ExpandedPath | None = None
    """Where the Ollama of this machine keeps its models; `OLLAMA_MODELS`, when set, changes the
    default. Its usual places are looked at when not given."""
    memory_gb: Positive | None = None
    """What the coordinator may take of this machine's memory, in units of 1024^3 bytes; what is
    available when not given, and never more."""
    memory_gb_per_s: Positive = 20.0
    """How fast this machine reads its memory, in 10^9 bytes a second."""
    context_length: Count = 4096
    """Tokens of context for each slot."""
    slots: Count = 1
    """Requests that are run at once."""
    cache_type: Literal["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] = "f16"
    """How keys and values of the context are stored; shorter ones cost a little precision."""

    keep_alive_s: Annotated[float, Field(allow_inf_nan=False)] = 300.0
    """Seconds that a model keeps its workers after a request that does not say so itself; negative for
    ever."""
    load_timeout_s: Seconds = 600.0
    """Seconds that a load may take; three times what is foretold where that is more."""
    progress_after_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    """Seconds that a streaming request waits for a load before it is sent something that clients pass
    over, and then between two such records; 0 for never."""
    threads: Count | None = None
    """CPU threads of the coordinator; half of the cores when not given."""
    binary: ExpandedPath | None = None
    """A `llama-server` to run as the coordinator, instead of the packaged one; an RPC server beside it
    runs the worker of this machine, and tells which version the other workers should have."""

    @property
    def local_worker(self) -> WorkerSettings | None:
        """The worker that the gateway runs itself, as a plan takes it before it runs."""
        if self.local_worker_gb is None:
            return None
        listed = WorkerSettings(address="127.0.0.1", memory_gb=self.local_worker_gb)
        return listed.model_copy(update={"address": LOCAL_WORKER})

    @field_validator("workers")
    @classmethod
    def _are_distinct(cls, workers: tuple[WorkerSettings, ...]) -> tuple[WorkerSettings, ...]:
        addresses = [worker.address for worker in workers]
        for address in addresses:
            if addresses.count(address) > 1:
                raise ValueError(f"{address} is listed twice")
        return workers
