"""``sollol shard``: one model over several machines."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from sollol.cli.environment import ConfigOption, SetOption, read_settings
from sollol.cli.errors import CommandError
from sollol.cli.gateway import Gateway, JsonOption, UrlOption
from sollol.cli.output import print_json, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sollol.settings import ShardingSettings
    from sollol.sharding.fleet import Seen
    from sollol.sharding.memory import RunOptions

app = typer.Typer(help="Run one model over several machines.", no_args_is_help=True)
_PLAN = """Examples:

  sollol shard plan llama3.1:70b --set sharding.workers=10.0.0.2=24,10.0.0.3=24

  sollol shard plan ~/models/qwen3-235b-00001-of-00003.gguf --context 16384 --slots 2 --json"""
_WORKERS = """Example:

  sollol shard workers --set sharding.workers=10.0.0.2=24,10.0.0.3=24"""
_NO_WORKERS = (
    "No worker is known. List them, with their memory in GB: "
    "--set sharding.workers=10.0.0.2:50052=24,10.0.0.3=16"
)
_NOT_COUNTED = (
    "The worker of the gateway's own machine (sharding.local_worker_gb) is not counted: it runs only "
    "while the gateway does."
)


@app.command("plan", epilog=_PLAN)
def plan(  # noqa: PLR0913, PLR0917 - each is an option
    model: Annotated[
        str, typer.Argument(help="A model of this machine's Ollama, or the path of a .gguf file.")
    ],
    context: Annotated[
        int | None,
        typer.Option("--context", metavar="TOKENS", help="sharding.context_length: of each slot."),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option("--slots", metavar="NUMBER", help="sharding.slots: requests at once."),
    ] = None,
    cache_type: Annotated[
        str | None,
        typer.Option(
            "--cache-type", metavar="TYPE", help="sharding.cache_type: f16, q8_0, q4_0..."
        ),
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which worker would hold which layers of a model, and what to expect; nothing is started."""
    options = {
        "sharding.context_length": context,
        "sharding.slots": slots,
        "sharding.cache_type": cache_type,
    }
    settings = read_settings(config, assignments or (), options).settings.sharding
    from sollol.cli.shard_text import as_dict, link_dict, link_text, print_plan, ways_out
    from sollol.errors import DoesNotFit, SollolError
    from sollol.sharding.alternatives import alternatives
    from sollol.sharding.fleet import fleet_of
    from sollol.sharding.models import read_model
    from sollol.sharding.notes import notes
    from sollol.sharding.ollama_store import default_stores
    from sollol.sharding.plan import find_plan, plan_shards

    if not settings.workers:
        raise CommandError(_no_workers(settings), exit_code=2)
    uncounted = () if settings.local_worker_gb is None else (_NOT_COUNTED,)
    seen = _seen(settings)
    run_options, fleet = _run_options(settings), fleet_of(settings, seen)
    try:
        found = read_model(model, default_stores(sys.platform, Path.home(), settings.store))
        others = alternatives(
            found.facts, run_options, fleet, find_plan(found.facts, run_options, fleet)
        )
        try:
            best = plan_shards(found.facts, run_options, fleet)
        except DoesNotFit as error:
            raise CommandError([str(error), *ways_out(others), *uncounted]) from None
    except SollolError as error:
        raise CommandError(str(error)) from None
    remarks = (*notes(best, found), *uncounted)
    if as_json:
        links = [link_dict(one) for one in seen]
        print_json({**as_dict(found.stored.name, best, others, remarks), "links": links})
    else:
        print_plan(found.stored.name, best, others, (*remarks, *map(link_text, seen)))


@app.command("workers", epilog=_WORKERS)
def workers(
    config: ConfigOption = None, assignments: SetOption = None, as_json: JsonOption = False
) -> None:
    """Ask every listed worker for its version and memory, and measure the link; exit 1 if one cannot be used."""
    settings = read_settings(config, assignments or ()).settings.sharding
    if not settings.workers:
        raise CommandError(_no_workers(settings), exit_code=2)
    from sollol.cli.shard_text import print_workers, worker_dict

    seen = _seen(settings)
    if as_json:
        print_json({"workers": [worker_dict(one) for one in seen]})
    else:
        print_workers(seen)
    if any(one.probe.error for one in seen):
        raise typer.Exit(1)


@app.command("ps", epilog="Examples:\n\n  sollol shard ps\n\n  sollol shard ps --json")
def ps(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show the models that run over workers, and what lies on which."""
    from sollol.cli.shard_running import print_running

    answer = Gateway(url).get("/sollol/v1/shards")
    if as_json:
        print_json(answer)
    else:
        print_running(answer)


@app.command("stop", epilog="Examples:\n\n  sollol shard stop llama3.1:70b")
def stop(
    model: Annotated[str, typer.Argument(help="A model that `sollol shard ps` shows.")],
    url: UrlOption = None,
) -> None:
    """Unload a model from its workers once its requests have ended."""
    stopped = Gateway(url).send("DELETE", f"/sollol/v1/shards/{quote(model, safe='/:')}")
    waits = f" once {stopped['requests']} requests have ended" if stopped["requests"] else ""
    print(printable(f"{stopped['model']} leaves its workers{waits}."))


def _seen(settings: "ShardingSettings") -> "Sequence[Seen]":
    """Return what the workers answer; they are compared with the llama.cpp here, if there is one.

    Raises:
        CommandError: the settings name one that is not there.
    """
    import asyncio

    from sollol.llamacpp.binaries import LlamaCppUnavailable, find_binaries
    from sollol.sharding.fleet import survey

    try:
        binaries = find_binaries(settings.binary)
    except LlamaCppUnavailable as error:
        if settings.binary is not None:
            raise CommandError(f"sharding.binary: {error}", exit_code=2) from None
        binaries = None
    return asyncio.run(survey(settings.workers, binaries))


def _no_workers(settings: "ShardingSettings") -> str:
    return _NO_WORKERS if settings.local_worker_gb is None else f"{_NO_WORKERS}. {_NOT_COUNTED}"


def _run_options(settings: "ShardingSettings") -> "RunOptions":
    from sollol.sharding.memory import RunOptions

    kind = settings.cache_type
    return RunOptions(settings.context_length, settings.slots, kind, kind)
