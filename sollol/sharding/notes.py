"""What a person should know about a plan besides its numbers. Pure."""

from collections.abc import Iterator

from sollol.sharding.defaults import context_of
from sollol.sharding.models import LocalModel
from sollol.sharding.plan import Plan
from sollol.sharding.template import choose_template

FAILING_BUILD = 10434
"""The newest build of llama.cpp seen to abort with states on several workers; 11434 does not."""


def notes(plan: Plan, model: LocalModel) -> tuple[str, ...]:
    """Return sentences."""
    return tuple(_notes(plan, model))


def _notes(plan: Plan, model: LocalModel) -> Iterator[str]:
    facts, options = plan.facts, plan.options
    if len(plan.shares) > 1 and any(unit.cache.state_bytes for unit in facts.units):
        yield (
            "It keeps recurrent states. With those on several workers, llama.cpp up to build "
            f"{FAILING_BUILD} aborts at the first token; newer builds are needed everywhere."
        )
    if 0 < facts.context_length < options.context_length:
        yield f"It was trained with {facts.context_length} tokens of context, and {options.context_length} are asked for."
    wanted = context_of(model.stored.parameters)
    if wanted is not None and wanted != options.context_length:
        yield (
            f"It asks for {wanted} tokens of context itself (num_ctx); sharding.context_length, "
            f"{options.context_length}, counts."
        )
    template = choose_template(model.chat_template, model.stored.template)
    if template.note:
        yield template.note
    if not facts.has_chat_template and not model.stored.template:
        yield "It has no chat template, so it completes text and does not chat."
