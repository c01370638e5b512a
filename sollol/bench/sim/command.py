"""``python -m sollol.bench.sim``: simulated Ollama nodes to try SOLLOL against.

Example:
    python -m sollol.bench.sim --port 11434 --count 2 --models llama3.2:3b,nomic-embed-text
"""

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import replace

from sollol.bench.sim.config import SimConfig, SimModel, guess_model
from sollol.bench.sim.node import SimNode

_DEFAULTS = SimConfig()
_NUMBERS: dict[str, str] = {
    "slots": "sequences at once for one model",
    "vram_gib": "accelerator memory",
    "max_loaded": "models in memory at once",
    "max_queue": "requests that may wait for loads",
    "keep_alive_s": "seconds an idle model stays in memory",
    "load_gib_per_s": "speed of loads",
    "prefill_tok_s": "speed of prompts",
    "decode_tok_s": "speed of answers",
    "embed_tok_s": "speed of embeddings",
    "reference_gib": "model size that the speeds hold for; 0 for all",
    "pull_gib_per_s": "speed of downloads",
    "blob_bytes_per_s": "real speed of uploads; 0 for as fast as they come",
    "chunk_interval_s": "real seconds between tokens, instead of --decode-tok-s",
    "keep_requests": "how many requests are remembered",
}


def parse_arguments(arguments: list[str]) -> list[SimConfig]:
    """Return a configuration for each node that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m sollol.bench.sim", description=__doc__)
    parser.add_argument("--host", default=_DEFAULTS.host)
    parser.add_argument("--port", type=int, default=11434, help="port of the first node")
    parser.add_argument("--count", type=int, default=1, help="nodes, on ports that follow it")
    parser.add_argument(
        "--node",
        action="append",
        default=[],
        metavar="PORT[:KEY=VALUE,...]",
        help="one node of its own kind, as 11436:slots=4,vram_gib=48; may be repeated",
    )
    parser.add_argument("--models", default="llama3.2:3b,nomic-embed-text", help="comma-separated")
    parser.add_argument("--version", default=_DEFAULTS.version)
    parser.add_argument("--control-port", type=int, help="port of the first node's side channel")
    parser.add_argument(
        "--time-scale", type=float, default=1.0, help="1 is real time, 0 is immediate"
    )
    for name, text in _NUMBERS.items():
        value = getattr(_DEFAULTS, name)
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(value), default=value, help=f"{text} ({value})")
    return _configs(parser, parser.parse_args(arguments))


def _configs(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> list[SimConfig]:
    common = SimConfig(
        models=_read_models(chosen.models),
        host=chosen.host,
        version=chosen.version,
        time_scale=chosen.time_scale,
        **{name: getattr(chosen, name) for name in _NUMBERS},
    )
    try:
        configs = [_read_node(text, common) for text in chosen.node]
    except ValueError as error:
        parser.error(str(error))
    configs = configs or [
        replace(common, port=chosen.port + place) for place in range(chosen.count)
    ]
    if chosen.control_port is None:
        return configs
    return [
        replace(config, control_port=chosen.control_port + place)
        for place, config in enumerate(configs)
    ]


def _read_models(names: str) -> tuple[SimModel, ...]:
    return tuple(guess_model(name.strip()) for name in names.split(",") if name.strip())


def _read_node(text: str, common: SimConfig) -> SimConfig:
    """Return the configuration that ``PORT:KEY=VALUE,...`` describes.

    Raises:
        ValueError: a key is unknown or a value is not a number.
    """
    port, _, rest = text.partition(":")
    changes: dict[str, int | float] = {"port": int(port)}
    for pair in filter(None, rest.split(",")):
        name, _, value = pair.partition("=")
        if name not in (*_NUMBERS, "time_scale"):
            raise ValueError(f"--node {text}: no such key: {name}")
        changes[name] = type(getattr(_DEFAULTS, name))(value)
    return replace(common, **changes)  # type: ignore[arg-type]


async def run_nodes(configs: list[SimConfig]) -> None:
    """Run nodes until cancelled."""
    async with AsyncExitStack() as stack:
        for config in configs:
            node = await stack.enter_async_context(SimNode(config))
            control = "" if config.control_port is None else f", control {node.control_url}"
            names = ", ".join(model.name for model in config.models)
            print(f"{node.url}: {names}{control}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Run the command."""
    configs = parse_arguments(sys.argv[1:])
    try:
        import uvloop
    except ImportError:
        run = asyncio.run
    else:
        run = uvloop.run
    try:
        run(run_nodes(configs))
    except KeyboardInterrupt:
        return
    except OSError as error:
        sys.exit(f"cannot listen: {error}")
