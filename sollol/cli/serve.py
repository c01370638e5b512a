"""``sollol serve``: the gateway."""

import gc
from typing import Annotated

import typer

from sollol.cli.environment import (
    ConfigOption,
    SetOption,
    read_settings,
    settings_reader,
)

EXAMPLES = """Examples:

  sollol serve

  sollol serve --node gpu1 --node gpu2:11434

  SOLLOL_NODES=gpu1,gpu2 sollol serve --port 8080

  sollol serve --set queue.max_length=100 --set upstream.max_attempts=2"""


def serve(  # noqa: PLR0913, PLR0917 - each is an option of the command
    host: Annotated[
        str | None,
        typer.Option(
            "--host", metavar="ADDRESS", show_default="127.0.0.1", help="Address to listen on."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="NUMBER", show_default="11435", help="TCP port to listen on."
        ),
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option(
            "--node",
            metavar="URL",
            help="A node to send requests to; may be repeated. Replaces nodes given elsewhere.",
        ),
    ] = None,
    config: ConfigOption = None,
    no_embedded: Annotated[
        bool, typer.Option("--no-embedded", help="Never start the llama.cpp node inside SOLLOL.")
    ] = False,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Listen where other machines can connect, without access control."
        ),
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option(
            "--log-level",
            metavar="LEVEL",
            show_default="info",
            help="Least severe: debug, info, warning or error.",
        ),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            "--log-format", metavar="FORMAT", show_default="auto", help="auto, console or json."
        ),
    ] = None,
    assignments: SetOption = None,
) -> None:
    """Run the gateway until Ctrl-C.

    A setting comes from the command line, else from SOLLOL_GROUP__NAME,
    else from sollol.yaml, else it has its default.

    Without any node, an Ollama on this machine is used;
    without that, a small model of SOLLOL's own answers.

    SIGHUP makes it read the settings again.
    """
    options = {
        "server.host": host,
        "server.port": port,
        "server.insecure": True if insecure else None,
        "nodes": node or None,
        "embedded.enabled": False if no_embedded else None,
        "log.level": log_level,
        "log.format": log_format,
    }
    settings = read_settings(config, assignments or (), options).settings

    gc.disable()  # what is imported stays: to look through it again and again is a tenth of the start
    from sollol.api.serve import run

    gc.enable()
    reread = settings_reader(config, assignments or (), options)
    raise typer.Exit(run(settings, lambda: reread().settings))
