"""From a request that was understood to its answer: load, slot, prefill, decode."""

from collections.abc import Iterator

from sollol.bench.sim.call import Call, take_runner
from sollol.bench.sim.faults import FaultyExchange
from sollol.bench.sim.lease import Lease, Timings
from sollol.bench.sim.pace import Item, decode_silently, write_at_once, write_paced
from sollol.bench.sim.prompts import context_ids
from sollol.bench.sim.records import Answer, Records, Result
from sollol.bench.sim.work import Reader, Work


async def serve_text(call: Call, read: Reader) -> None:
    """Serve a request that a model answers with text; ``read`` understands its body."""
    work = call.state.works.understand(read, call.body, call.state.models)
    call.name_model(work.name)
    records = work.make_records(call.state.completion_ids)
    if work.purpose == "answer":
        await _answer(call, work, records)
        return
    if work.purpose == "unload":
        call.state.engine.unload(work.stored.model.digest)
    else:
        runner, _ = await take_runner(call, work.stored, work.options, work.keep_alive_s)
        call.state.engine.release(runner)
    result = Result(work.purpose, 0, 0, Timings())
    call.exchange.respond(200, records.whole(Answer(), result), records.whole_type)


async def _answer(call: Call, work: Work, records: Records) -> None:
    runner, load_s = await take_runner(call, work.stored, work.options, work.keep_alive_s)
    async with Lease(call.state.engine, runner, load_s) as lease:
        await lease.prefill(work.given, work.given_tokens)
        if work.stream:
            await _stream(call, work, records, lease)
        else:
            await _decode(call, work.answer.eval_count, lease)
            body = records.whole(work.answer, _result(call, work, lease))
            call.exchange.respond(200, body, records.whole_type)
            if _is_immediate(call):
                call.state.fast_lane.offer(call.exchange, work, lease, body)
        runner.prefixes.remember(work.remembered)


def _is_immediate(call: Call) -> bool:
    config = call.state.config
    return not config.time_scale and not config.chunk_interval_s


async def _decode(call: Call, tokens: int, lease: Lease) -> None:
    if _is_immediate(call):
        lease.decode(tokens)
        return
    await decode_silently(lease, tokens)


async def _stream(call: Call, work: Work, records: Records, lease: Lease) -> None:
    exchange = call.exchange
    if isinstance(exchange, FaultyExchange):
        exchange.error_record = records.error(exchange.fault.text)
    exchange.headers.extend(records.stream_headers)
    exchange.start_stream(records.stream_type)
    items = _items(call, work, records, lease)
    if _is_immediate(call):
        lease.decode(work.answer.eval_count)
        await write_at_once(exchange, items)
    else:
        await write_paced(exchange, items, lease)
    await exchange.end_stream()


def _items(call: Call, work: Work, records: Records, lease: Lease) -> Iterator[Item]:
    answer = work.answer
    for piece in answer.thinking:
        yield records.thinking(piece), 1
    if answer.tool_name:
        yield records.tool_call(answer), answer.tool_tokens
    for piece in answer.pieces:
        yield records.text(piece), 1
    for record in records.last(_result(call, work, lease)):
        yield record, 0


def _result(call: Call, work: Work, lease: Lease) -> Result:
    context = (
        context_ids(lease.prompt_tokens, work.answer.eval_count) if work.with_context else None
    )
    cached = lease.cached_tokens if call.state.config.reports_cached_count else None
    return Result(
        work.answer.done_reason,
        lease.prompt_tokens,
        work.answer.eval_count,
        lease.timings,
        cached_tokens=cached,
        context=context,
    )
