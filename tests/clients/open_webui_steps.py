"""What a person does in Open WebUI, and what must then hold at the gateway and its nodes."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sollol.bench.sim.recorder import RequestRecord
from sollol.wire.names import model_key
from tests.fleets import Fleet

CHAT = "llama3.2:3b"
DOOMED = "qwen3:8b"
EMBED = "nomic-embed-text:latest"
PULLED = "gemma3:1b"
UNWANTED = "gemma3:4b"
MANAGED = "smollm2:360m"

BOTH = "ab"
"""The letters of the two nodes (``Fleet.having``)."""


@dataclass(frozen=True)
class Stage:
    """``page`` is a playwright page; ``url`` Open WebUI's; pictures go to ``screenshots``."""

    page: Any
    fleet: Fleet
    url: str
    screenshots: Path | None

    async def shoot(self, name: str) -> None:
        if self.screenshots is not None:
            await self.page.screenshot(path=self.screenshots / f"{name}.png")

    async def answer(self) -> str:
        """The text of the newest answer, as far as it is there; calls of tools are left out."""
        paragraphs = self.page.locator(".chat-assistant").last.locator("p")
        return "\n".join(await paragraphs.all_inner_texts())

    @property
    def stop_button(self) -> Any:
        return self.page.get_by_role("button", name="Stop", exact=True)

    def requests(self, path: str) -> Iterator[RequestRecord]:
        return (r for node in self.fleet.nodes for r in node.requests if r.path == path)

    def outcomes(self, path: str) -> list[str]:
        return [request.outcome for request in self.requests(path)]

    async def in_flight(self) -> list[int]:
        answer = await self.fleet.client.get("/sollol/v1/nodes")
        return [node["in_flight"] for node in answer.json()["nodes"]]

    async def open_selector(self) -> None:
        await self.page.goto(self.url)
        await self.page.locator("#model-selector-model-button").click()
        await self.page.locator("[role=option][data-value]").first.wait_for()

    async def listed(self) -> list[str]:
        """The models in the open selector."""
        options = self.page.locator("[role=option][data-value]")
        names: list[str] = await options.evaluate_all("all => all.map(e => e.dataset.value)")
        return sorted(names)

    async def ask(self, question: str) -> None:
        await self.page.locator("#chat-input").click()
        await self.page.keyboard.type(question)
        await self.page.keyboard.press("Enter")
        await self.stop_button.wait_for()


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 20.0
) -> None:
    """Wait until ``condition()`` holds."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline, f"did not come to hold: {what}"
        await asyncio.sleep(0.05)


async def list_models(stage: Stage) -> None:
    """The model list has each model once, though both nodes have it."""
    await stage.page.goto(stage.url)
    await stage.page.get_by_text("Okay, Let's Go!").click()
    await stage.open_selector()
    assert await stage.listed() == sorted([CHAT, DOOMED, EMBED])


async def chat(stage: Stage) -> None:
    """A chat is answered, and its text is seen to come."""
    await stage.page.locator(f"[role=option][data-value='{CHAT}']").click()
    await stage.ask("Why is the sky blue?")
    lengths = set()
    while await stage.stop_button.count():
        lengths.add(len(await stage.answer()))
        await asyncio.sleep(0.05)
    assert len(lengths) > 5, lengths
    assert "completed" in stage.outcomes("/api/chat")


async def stop(stage: Stage) -> None:
    """Stop in the middle of an answer ends the work on the node at once."""
    assert "aborted" not in stage.outcomes("/api/chat")
    await stage.ask("Tell me a long story about grey geese.")

    async def has_begun() -> bool:
        return len(await stage.answer()) > 20

    await until(has_begun, "the answer has begun")
    assert sum(await stage.in_flight()) == 1
    await stage.stop_button.click()

    async def is_idle() -> bool:
        return await stage.in_flight() == [0, 0]

    await until(is_idle, "no request is in flight", timeout_s=2)
    assert stage.outcomes("/api/chat").count("aborted") == 1


async def read_document(stage: Stage) -> None:
    """A document in a chat is embedded by a node, and asked about."""
    file = {"name": "geese.txt", "mimeType": "text/plain", "buffer": b"Geese are grey. " * 100}
    await stage.page.goto(stage.url)
    await stage.page.locator("input[type=file]").first.set_input_files(file)

    attached = stage.page.get_by_role("button", name="geese.txt")
    await attached.wait_for()
    await attached.locator(".spinner_ajPY").wait_for(state="detached")
    of_document = stage.outcomes("/api/embed")
    assert set(of_document) == {"completed"}, of_document
    await stage.ask("What colour are geese?")
    await stage.stop_button.wait_for(state="detached")
    assert len(await stage.answer()) > 20
    of_both = stage.outcomes("/api/embed")
    assert set(of_both) == {"completed"}, of_both
    assert len(of_both) > len(of_document), "the question was not looked up in the document"


async def pull(stage: Stage) -> None:
    """A download from the model list shows its progress and puts the model on both nodes."""
    await _start_download(stage, PULLED)
    row = stage.page.locator("[role=option]", has_text=f'Downloading "{PULLED}"')
    shown: set[int] = set()  # it goes up once for each layer; layers without bytes show 100%
    while stage.fleet.having(PULLED) != BOTH:
        if await row.count():
            shown |= set(map(int, re.findall(r"(\d+)%", await row.inner_text())))
        await asyncio.sleep(0.05)
    assert len(shown - {100}) > 3, shown

    async def is_listed() -> bool:
        return PULLED in await stage.listed()

    await until(is_listed, "the model is in the list")


async def cancel_pull(stage: Stage) -> None:
    """A download that is cancelled ends on both nodes at once."""
    await _start_download(stage, UNWANTED)
    await stage.page.get_by_text(re.compile(r"^\d\d%$")).wait_for()
    await stage.page.get_by_role("button", name=f"Cancel download of {UNWANTED}").click()

    async def is_aborted() -> bool:
        return stage.outcomes("/api/pull").count("aborted") == len(BOTH)

    await until(is_aborted, "both nodes noticed", timeout_s=2)
    assert stage.fleet.having(UNWANTED) == ""


async def _start_download(stage: Stage, model: str) -> None:
    await stage.open_selector()
    await stage.page.locator("#model-search-input").fill(model)
    await stage.page.get_by_text(f'Download "{model}"').click()


async def unload(stage: Stage) -> None:
    """Eject takes a model out of the memory of both nodes, and the list shows it."""
    for node in stage.fleet.nodes:
        await stage.fleet.client.post(f"{node.url}/api/generate", json={"model": CHAT})

    async def is_known() -> bool:
        return all(
            model_key(CHAT) in view.resident
            for view in stage.fleet.running.gateway.registry.views()
        )

    await until(is_known, "the gateway knows what is in memory")
    await stage.open_selector()
    option = stage.page.locator(f"[role=option][data-value='{CHAT}']")
    await option.hover()
    await option.get_by_role("button", name="Eject model").click()
    await option.get_by_role("button", name="Eject model").wait_for(state="detached")
    for node in stage.fleet.nodes:
        assert (node.unloads[-1].model, node.unloads[-1].reason) == (CHAT, "asked")


async def manage(stage: Stage) -> None:
    """Admin settings: a download shows its progress bar."""
    await stage.page.goto(f"{stage.url}/admin/settings/connections")
    await stage.page.get_by_role("button", name="Manage", exact=True).click()
    await _submit(stage, "Enter model tag (e.g. mistral:7b)", MANAGED)
    await stage.page.get_by_role("dialog").get_by_text(re.compile(r"^\s*\d\d%\s*$")).wait_for()
    await stage.shoot("manage-progress")

    async def is_pulled() -> bool:
        return stage.fleet.having(MANAGED) == BOTH

    await until(is_pulled, "both nodes have the model")


async def delete(stage: Stage) -> None:
    """Admin settings: delete takes a model off both nodes."""
    await stage.page.locator("select[title='Select a model']").select_option(DOOMED)
    await stage.page.get_by_role("button", name="Delete Model").click()
    await stage.page.get_by_role("button", name="Confirm").click()
    await stage.page.get_by_text(f"Deleted {DOOMED}").wait_for()
    assert stage.fleet.having(DOOMED) == ""
    assert DOOMED not in await stage.fleet.listed()


async def create(stage: Stage) -> None:
    """Admin settings: a model made of another one is on both nodes."""
    model = {"model": "grey", "from": CHAT, "system": "You are a goose."}
    await stage.page.get_by_role("dialog").locator("textarea").fill(json.dumps(model))
    await _submit(stage, "Enter model tag (e.g. my-modelfile)", "grey")

    async def is_made() -> bool:
        return stage.fleet.having("grey") == BOTH

    await until(is_made, "both nodes have the model")


async def upload(stage: Stage) -> None:
    """Admin settings: a model made of an uploaded file is on both nodes."""
    await stage.page.get_by_role("dialog").get_by_text("Show", exact=True).click()
    weights = {"name": "goose.gguf", "mimeType": "", "buffer": b"GGUF" + bytes(3_000_000)}
    await stage.page.locator("#model-upload-input").set_input_files(weights)
    await stage.page.locator("#model-upload-input >> xpath=ancestor::form//button").last.click()
    await stage.page.get_by_text("Model created successfully!").wait_for()
    assert stage.fleet.having("goose") == BOTH


async def _submit(stage: Stage, placeholder: str, text: str) -> None:
    """Fill a field of the dialog and press the button to the right of it."""
    field = stage.page.get_by_placeholder(placeholder)
    await field.fill(text)
    await field.locator("xpath=ancestor::div[2]//button").first.click()


STEPS = (
    list_models,
    chat,
    stop,
    read_document,
    pull,
    cancel_pull,
    unload,
    manage,
    delete,
    create,
    upload,
)
