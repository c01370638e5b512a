"""Runs a real Open WebUI against a gateway over two simulated nodes and uses it in a browser.

By hand, never in CI: Open WebUI and what it needs are several GB.

    uv venv /tmp/webui && uv pip install --python /tmp/webui/bin/python open-webui
    .venv/bin/uv pip install playwright       # drives the browser; it downloads none here
    apt-get install chromium
    .venv/bin/python -m tests.clients.open_webui --webui /tmp/webui/bin/open-webui \
        --screenshots /tmp/screenshots

Needs two minutes and no network. What it does is in ``open_webui_steps.py``. It ends with the requests
that Open WebUI made of the gateway, and with exit code 1 where a step failed, the gateway answered a
request with an error, or the page showed one.
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import async_playwright

from sollol.bench.sim.config import SimConfig, guess_model
from sollol.ports import free_port
from tests.clients.open_webui_steps import CHAT, DOOMED, EMBED, STEPS, Stage, until
from tests.clients.wiretap import Wiretap, tapped
from tests.fleets import a_fleet

NODE = SimConfig(
    models=tuple(guess_model(name) for name in (CHAT, DOOMED, EMBED)),
    time_scale=1.0,
    chunk_interval_s=0.1,  # an answer takes 2 to 13 s: enough to be seen coming and to be stopped
    load_gib_per_s=20,
    pull_gib_per_s=0.1,
)
START_S = 180.0


def webui_environment(gateway_url: str, folder: Path) -> dict[str, str]:
    """Return the environment of an Open WebUI that knows only the gateway and asks no one else."""
    return os.environ | {
        "OLLAMA_BASE_URL": gateway_url,
        "ENABLE_OPENAI_API": "False",
        "RAG_EMBEDDING_ENGINE": "ollama",
        "RAG_EMBEDDING_MODEL": EMBED,
        "WEBUI_AUTH": "False",
        "WEBUI_SECRET_KEY": secrets.token_hex(),
        "DATA_DIR": str(folder / "data"),
        "OFFLINE_MODE": "True",
        "HF_HUB_OFFLINE": "1",
        # Requests of its own, beside the chat, that would still run when a chat was stopped.
        "ENABLE_TITLE_GENERATION": "False",
        "ENABLE_TAGS_GENERATION": "False",
        "ENABLE_FOLLOW_UP_GENERATION": "False",
    }


@contextlib.asynccontextmanager
async def running_webui(program: str, gateway_url: str) -> AsyncIterator[str]:
    """Run Open WebUI with an empty database and yield its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="sollol-webui-") as name:
        folder = Path(name)
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                program,
                *("serve", "--host", "127.0.0.1", "--port", str(port)),
                cwd=folder,
                env=webui_environment(gateway_url, folder),
                stdout=log,
                stderr=log,
            )
        try:
            async with httpx.AsyncClient() as client:
                await until(lambda: _is_up(client, process, url), "Open WebUI is up", START_S)
            yield url
        except BaseException:
            sys.stderr.write((folder / "log").read_text(errors="replace")[-4000:])
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _is_up(client: httpx.AsyncClient, process: asyncio.subprocess.Process, url: str) -> bool:
    assert process.returncode is None, "Open WebUI ended"
    try:
        return (await client.get(f"{url}/health")).is_success
    except httpx.TransportError:
        return False


async def use(options: argparse.Namespace) -> list[str]:
    """Take every step and return what went wrong besides."""
    wrong: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        # Probes as far apart as by default: what users see must not hang on quick ones.
        fleet = await enter(a_fleet(NODE, NODE, probe={"interval_s": 5.0}))
        tap = await enter(tapped(fleet.running.url))
        url = await enter(running_webui(options.webui, tap.url))
        playwright = await enter(async_playwright())
        browser = await playwright.chromium.launch(executable_path=options.chromium)
        stack.push_async_callback(browser.close)
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        _watch(page, wrong)
        stage = Stage(page, fleet, url, options.screenshots)
        for step in STEPS:
            try:
                await step(stage)
            except BaseException:
                await stage.shoot(f"failed-{step.__name__}")
                raise
            await stage.shoot(step.__name__)
            sys.stdout.write(f"ok  {(step.__doc__ or '').splitlines()[0]}\n")
        wrong += _summary(tap)
    return wrong


def _watch(page: Any, wrong: list[str]) -> None:
    """Note what a browser shows as an error, though the page may go on."""

    def note_answer(answer: Any) -> None:
        if answer.status >= 400:
            wrong.append(f"Open WebUI: {answer.status} {answer.request.method} {answer.url}")

    def note_message(message: Any) -> None:
        if message.type == "error":
            wrong.append(f"console: {message.text}")

    page.on("response", note_answer)
    page.on("console", note_message)
    page.on("pageerror", lambda error: wrong.append(f"page: {error}"))


def _summary(tap: Wiretap) -> list[str]:
    """Write down every kind of request the gateway got and return those that it refused."""
    counts = Counter((e.method, e.path.partition("sha256:")[0], e.status) for e in tap.exchanges)
    lines = [
        f"{status} {method:6} {path} x{count}" for (method, path, status), count in counts.items()
    ]
    sys.stdout.write("".join(f"    {line}\n" for line in sorted(lines)))
    return [f"gateway: {line}" for line in lines if line[0] in "45"]


def main() -> int:
    """Return 0 if all went well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--webui", required=True, help="the open-webui program")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    parser.add_argument("--screenshots", type=Path, help="folder for a picture after each step")
    wrong = asyncio.run(use(parser.parse_args()))
    sys.stdout.write("".join(f"WRONG {line}\n" for line in wrong) or "all well\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
