"""``sollol shard``: one model over several machines."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from sollol.cli.environment import ConfigOption, SetOption, read_settings
from sollol.cli.errors import CommandError
from sollol.cli.gateway import Gateway, JsonOption, UrlOption, url_of
from sollol.cli.output import print_json, printable

if TYPE_CHECKING:
    from sollol.settings import ShardingSettings
    from sollol.sharding.memory import RunOptions

app = typer.Typer(help="Run one model over several machines.", no_args_is_help=True)
_PLAN = """Examples:

  sollol shard plan llama3.1:70b --set sharding.workers=10.0.0.2=24,10.0.0.3=24

  sollol shard plan ~/models/qwen3-235b-00001-of-00003.gguf --context 16384 --slots 2 --json"""
_WORKERS = """Example:

  sollol shard workers --set sharding.workers=10.0.0.2=24,10.0.0.3=24"""
_NO_WORKERS = (
    "No worker is known. List them, with their memory in GB: "
    "--set sharding.workers=10.0.0.2:50052=24,10.0.0.3=16; or let the gateway run one here: "
    "--set sharding.local_worker_gb=16"
)


@app.command("plan", epilog=_PLAN)
def plan(  # noqa: PLR0913, PLR0917 - each is an option
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model of this machine's Ollama, or the path of a .gguf file."
        ),
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
    from sollol.cli.shard_workers import seen_workers
    from sollol.errors import DoesNotFit, SollolError
    from sollol.settings import LOCAL_LINK, LOCAL_WORKER
    from sollol.sharding.alternatives import alternatives
    from sollol.sharding.fleet import fleet_of
    from sollol.sharding.models import read_model
    from sollol.sharding.notes import notes
    from sollol.sharding.ollama_store import default_stores
    from sollol.sharding.plan import find_plan, plan_shards
    from sollol.sharding.prediction import Link

    _check_any(settings)
    seen = seen_workers(settings)
    run_options, fleet = _run_options(settings), fleet_of(settings, seen)
    local = LOCAL_WORKER, Link(*LOCAL_LINK)
    try:
        found = read_model(model, default_stores(sys.platform, Path.home(), settings.store))
        fitting = find_plan(found.facts, run_options, fleet)
        others = alternatives(found.facts, run_options, fleet, fitting, local)
        try:
            best = plan_shards(found.facts, run_options, fleet)
        except DoesNotFit as error:
            raise CommandError([str(error), *ways_out(others)]) from None
    except SollolError as error:
        raise CommandError(str(error)) from None
    remarks = notes(best, found)
    if as_json:
        links = [link_dict(one) for one in seen]
        print_json({**as_dict(found.stored.name, best, others, remarks), "links": links})
    else:
        print_plan(found.stored.name, best, others, (*remarks, *map(link_text, seen)))


@app.command("workers", epilog=_WORKERS)
def workers(
    config: ConfigOption = None,
    assignments: SetOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask every worker for its version and memory, and measure the link; exit 1 if one cannot be used.

    One that holds a part of a model answers nobody else: the gateway is asked which model that is.
    """
    loaded = read_settings(config, assignments or ()).settings
    settings = loaded.sharding
    from sollol.cli.shard_workers import held_models, print_workers, seen_workers, told_workers

    _check_any(settings)
    at = url or url_of(loaded.server)
    told = told_workers(seen_workers(settings), lambda: held_models(at))
    if as_json:
        print_json({"workers": told})
    else:
        print_workers(told)
    if any(one["error"] and not one["model"] for one in told):
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
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model that `sollol shard ps` shows.")
    ],
    url: UrlOption = None,
) -> None:
    """Unload a model from its workers once its requests have ended."""
    stopped = Gateway(url).send("DELETE", f"/sollol/v1/shards/{quote(model, safe='/:')}")
    waits = f" once {stopped['requests']} requests have ended" if stopped["requests"] else ""
    print(printable(f"{stopped['model']} leaves its workers{waits}."))


def _check_any(settings: "ShardingSettings") -> None:
    if not settings.workers and settings.local_worker_gb is None:
        raise CommandError(_NO_WORKERS, exit_code=2)


def _run_options(settings: "ShardingSettings") -> "RunOptions":
    from sollol.sharding.memory import RunOptions

    kind = settings.cache_type
    return RunOptions(settings.context_length, settings.slots, kind, kind)
