"""The ``sollol`` command. Each command is one small file; heavy imports wait until it runs."""

import sys
from typing import Annotated

import typer

from sollol import __version__
from sollol.cli import (
    bench,
    chat,
    config,
    doctor,
    explain,
    manage,
    models,
    nodes,
    ps,
    queue,
    route,
    serve,
    shard,
    worker,
)
from sollol.cli.errors import CommandError

app = typer.Typer(
    name="sollol",
    help="SOLLOL: one port in front of every GPU you own.",
    epilog="Examples:\n\n  sollol serve\n\n  curl http://127.0.0.1:11435/api/tags",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"sollol {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


app.command("serve", epilog=serve.EXAMPLES)(serve.serve)
app.add_typer(nodes.app, name="nodes", epilog=nodes.EXAMPLES)
app.command("models", epilog=models.EXAMPLES)(models.models)
app.command("ps", epilog=ps.EXAMPLES)(ps.ps)
app.command("chat", epilog=chat.EXAMPLES)(chat.chat)
app.command("pull", epilog=manage.PULL_EXAMPLES)(manage.pull)
app.command("rm", epilog=manage.RM_EXAMPLES)(manage.rm)
app.command("explain", epilog=explain.EXAMPLES)(explain.explain)
app.command("route", epilog=route.EXAMPLES)(route.route)
app.command("queue", epilog=queue.EXAMPLES)(queue.queue)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("bench", epilog=bench.EXAMPLES)(bench.bench)
app.add_typer(shard.app, name="shard")
app.command("worker", epilog=worker.EXAMPLES)(worker.worker)
app.add_typer(config.app, name="config")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage or settings, 130 Ctrl-C.

    Args:
        arguments: what follows ``sollol``; those of the process when not given.
    """
    try:
        app(arguments, prog_name="sollol")
    except CommandError as error:
        for line in error.lines:
            print(line, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
