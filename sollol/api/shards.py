"""``/sollol/v1/shards``: the models that run over several machines, and what lies on which worker."""

from fastapi import APIRouter
from pydantic import BaseModel

from sollol.api.own import OwnRoute, errors
from sollol.api.served import Served
from sollol.errors import ModelNotFound
from sollol.gateway.shard import Shard
from sollol.gateway.shards import Rest, Shards
from sollol.sharding.memory import MIB
from sollol.sharding.plan import Plan, Share
from sollol.wire.names import display_name, model_key, shown_key


class WorkerShare(BaseModel):
    """What of a model lies on a worker.

    ``weight_bytes`` and ``cache_bytes`` (keys, values and states) are what llama-server says it has put
    there; null until the model is loaded. ``planned_bytes`` is all that it may come to take.
    """

    address: str
    first_layer: int
    layers: int
    has_output: bool
    planned_bytes: int
    memory_bytes: int
    weight_bytes: int | None
    cache_bytes: int | None


class ShardStatus(BaseModel):
    """A model over several machines.

    ``state`` is ``planning`` (workers are looked for, or waited for), ``loading``, ``ready``,
    ``restarting`` (it was lost), ``leaving`` (it makes room once it has answered) or ``failed``.
    ``progress`` is the share of it that is loaded, ``eta_s`` when that is done, if it can be told;
    ``load_s`` what the last load took. ``requests`` wait for it or are answered. ``expires_at``: when
    it leaves if nobody asks for it; empty of one that leaves as soon as its requests have ended.
    ``retry_after_s``: until when one that failed is not tried again; null where the next request does
    that. ``error`` is why it is not there, or was lost the last time.
    """

    model: str
    state: str
    node: str
    progress: float
    eta_s: float | None
    load_s: float | None
    expected_load_s: float | None
    expected_tokens_per_s: float | None
    requests: int
    context_length: int | None
    slots: int | None
    coordinator: str
    expires_at: str
    retry_after_s: float | None
    error: str
    workers: list[WorkerShare]


class ShardsAnswer(BaseModel):
    """All of them; ``enabled``: there are workers in the settings."""

    enabled: bool
    shards: list[ShardStatus]


class StoppedShard(BaseModel):
    """A model that leaves as soon as its requests have ended."""

    model: str
    requests: int


router = APIRouter(tags=["shards"], prefix="/sollol/v1/shards", route_class=OwnRoute)


@router.get("", summary="Models over several machines")
async def _all_shards(gateway: Served) -> ShardsAnswer:
    shards = gateway.shards
    if shards is None:
        return ShardsAnswer(enabled=False, shards=[])
    now = gateway.clock()
    running = [_status(shard, shards) for shard in shards.all()]
    failed = [_failed(key, rest, now) for key, rest in shards.rests().items()]
    return ShardsAnswer(enabled=True, shards=running + failed)


@router.delete("/{name:path}", summary="Unload one", responses=errors(404))
async def _stop(gateway: Served, name: str) -> StoppedShard:
    """Give a model nothing new, and unload it when its requests have ended."""
    shard = None if gateway.shards is None else gateway.shards.find(model_key(name))
    if shard is None:
        raise ModelNotFound(f"{display_name(name)} does not run over workers")
    shard.leave()
    return StoppedShard(model=shard.name, requests=shard.users)


def _status(shard: Shard, shards: Shards) -> ShardStatus:
    plan = shard.plan
    return ShardStatus(
        model=shard.name,
        state=shard.state,
        node=shard.node_id,
        progress=round(shard.progress.share, 4),
        eta_s=shard.progress.eta_s,
        load_s=shard.load_s or None,
        expected_load_s=None if plan is None else plan.expectation.load_s,
        expected_tokens_per_s=None if plan is None else plan.expectation.tokens_per_s,
        requests=shard.users,
        context_length=None if plan is None else plan.options.context_length,
        slots=None if plan is None else plan.options.slots,
        coordinator="" if plan is None else plan.coordinator.name,
        expires_at=shards.expires_at(shard) if shard.serves else "",
        retry_after_s=None,
        error=shard.error,
        workers=[] if plan is None else [_share(shard, plan, share) for share in plan.shares],
    )


def _share(shard: Shard, plan: Plan, share: Share) -> WorkerShare:
    proof = shard.placement.get(share.worker.name)
    return WorkerShare(
        address=share.worker.name,
        first_layer=share.first,
        layers=min(share.end, plan.facts.layer_count) - share.first,
        has_output=share.end > plan.facts.layer_count,
        planned_bytes=share.memory.total_bytes,
        memory_bytes=share.worker.memory_bytes,
        weight_bytes=None if proof is None else int(proof.weight_mib * MIB),
        cache_bytes=None if proof is None else int((proof.cache_mib + proof.state_mib) * MIB),
    )


def _failed(key: str, rest: Rest, now: float) -> ShardStatus:
    return ShardStatus(
        model=shown_key(key),
        state="failed",
        node="",
        progress=0.0,
        eta_s=None,
        load_s=None,
        expected_load_s=None,
        expected_tokens_per_s=None,
        requests=0,
        context_length=None,
        slots=None,
        coordinator="",
        expires_at="",
        retry_after_s=rest.until - now if rest.until > now else None,
        error=str(rest.error),
        workers=[],
    )
