"""What applications built on LangChain, LiteLLM and LlamaIndex do, against ``GATEWAY_URL``.

Runs in a virtual environment of its own, which ``frameworks.py`` makes.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable

import litellm
from langchain_core.messages import HumanMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama
from pydantic import BaseModel

URL = os.environ["GATEWAY_URL"]
TALKER, THINKER, EMBEDDER = "llama3.2:3b", "qwen3:8b", "all-minilm"
QUESTION = "Why is the sky blue?"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Look outside.", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}


class Place(BaseModel):
    """A place."""

    city: str


def weather(city: str) -> str:
    """Look out of the window of a city."""
    return f"It rains in {city}."


def langchain_chats_and_streams() -> None:
    chat = ChatOllama(model=TALKER, base_url=URL, num_predict=8)
    whole = chat.invoke(QUESTION)
    assert whole.usage_metadata["output_tokens"] == 8
    pieces = list(chat.stream(QUESTION))
    assert len(pieces) > 4
    assert "".join(piece.content for piece in pieces) == whole.content
    assert OllamaLLM(model=TALKER, base_url=URL, num_predict=4).invoke(QUESTION)


def langchain_validates_the_model() -> None:
    ChatOllama(model=TALKER, base_url=URL, validate_model_on_init=True)
    try:
        ChatOllama(model="nope", base_url=URL, validate_model_on_init=True)
    except ValueError as error:
        assert "nope" in str(error)  # noqa: PT017
    else:
        raise AssertionError("a model that is not listed was taken")


def langchain_calls_tools() -> None:
    chat = ChatOllama(model=TALKER, base_url=URL).bind_tools([TOOL])
    asked = chat.invoke(QUESTION)
    (call,) = asked.tool_calls
    assert (call["name"], set(call["args"])) == ("weather", {"city"})
    result = {"role": "tool", "content": "It rains.", "tool_call_id": call["id"]}
    assert chat.invoke([HumanMessage(QUESTION), asked, result]).content


def langchain_shapes() -> None:
    for method in ("json_schema", "function_calling"):
        chat = ChatOllama(model=TALKER, base_url=URL)
        assert chat.with_structured_output(Place, method=method).invoke(QUESTION).city


def langchain_thinks() -> None:
    answer = ChatOllama(model=THINKER, base_url=URL, reasoning=True).invoke(QUESTION)
    assert answer.content
    assert answer.additional_kwargs["reasoning_content"]


def langchain_sees() -> None:
    image = {"type": "image_url", "image_url": f"data:image/png;base64,{PIXEL}"}
    question = HumanMessage([{"type": "text", "text": "What is it?"}, image])
    chat = ChatOllama(model=TALKER, base_url=URL, num_predict=8)
    seen = chat.invoke([question]).content
    assert seen
    assert seen != chat.invoke("What is it?").content


def langchain_embeds() -> None:
    embeddings = OllamaEmbeddings(model=EMBEDDER, base_url=URL)
    vectors = embeddings.embed_documents(["one", "two"])
    assert len(vectors) == 2
    assert embeddings.embed_query("one") == vectors[0]


def _litellm_asks(provider: str, **fields: object) -> object:
    base = f"{URL}/v1" if provider == "openai" else URL
    messages = [{"role": "user", "content": QUESTION}]
    return litellm.completion(
        **{"model": f"{provider}/{TALKER}", "messages": messages}
        | {"api_base": base, "api_key": "unused"}
        | fields
    )


def litellm_chats_and_streams() -> None:
    for provider in ("ollama", "ollama_chat", "openai"):
        whole = _litellm_asks(provider, max_tokens=8)
        assert whole.usage.completion_tokens == 8, provider
        chunks = _litellm_asks(provider, max_tokens=8, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == whole.choices[0].message.content, provider


def litellm_calls_tools() -> None:
    for provider in ("ollama_chat", "openai"):
        (call,) = _litellm_asks(provider, tools=[TOOL]).choices[0].message.tool_calls
        assert call.function.name == "weather", provider
        assert set(json.loads(call.function.arguments)) == {"city"}, provider


def litellm_shapes() -> None:
    schema = {"name": "place", "schema": PARAMETERS}
    shape = {"type": "json_schema", "json_schema": schema}
    for provider in ("ollama_chat", "openai"):
        answer = _litellm_asks(provider, response_format=shape)
        assert set(json.loads(answer.choices[0].message.content)) == {"city"}, provider


def litellm_thinks() -> None:
    for provider in ("ollama_chat", "openai"):
        asked = {"reasoning_effort": "low", "model": f"{provider}/{THINKER}"}
        asked["allowed_openai_params"] = ["reasoning_effort"]
        message = _litellm_asks(provider, **asked).choices[0].message
        assert message.content, provider
        assert message.reasoning_content, provider


def litellm_sees() -> None:
    url = {"url": f"data:image/png;base64,{PIXEL}"}
    content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": url}]
    messages = [{"role": "user", "content": content}]
    for provider in ("ollama_chat", "openai"):
        answer = _litellm_asks(provider, max_tokens=8, messages=messages)
        assert answer.choices[0].message.content, provider


def litellm_embeds() -> None:
    for provider, base in (("ollama", URL), ("openai", f"{URL}/v1")):
        answer = litellm.embedding(
            f"{provider}/{EMBEDDER}",
            input=["one", "two"],
            api_base=base,
            api_key="unused",
            encoding_format="float",
            drop_params=True,
        )
        assert len(answer.data) == 2, provider


def litellm_holds_an_anthropic_dialogue() -> None:
    answer = litellm.completion(
        model=f"anthropic/{TALKER}",
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=8,
        api_base=URL,
        api_key="unused",
    )
    assert answer.choices[0].message.content


def litellm_is_told_of_an_unknown_model() -> None:
    for provider in ("ollama_chat", "openai"):
        try:
            _litellm_asks(provider, model=f"{provider}/nope")
        except litellm.exceptions.APIError as error:
            assert "not found" in str(error), provider  # noqa: PT017
        except litellm.exceptions.NotFoundError as error:
            assert "not found" in str(error), provider  # noqa: PT017
        else:
            raise AssertionError(f"{provider}: an unknown model answered")


def _llama_index(model: str = TALKER, **fields: object) -> Ollama:
    return Ollama(model=model, base_url=URL, request_timeout=60, **fields)


def llama_index_chats_and_streams() -> None:
    llm = _llama_index(additional_kwargs={"num_predict": 8})
    question = [ChatMessage(role="user", content=QUESTION)]
    whole = llm.chat(question)
    parts = list(llm.stream_chat(question))
    assert "".join(part.delta or "" for part in parts) == whole.message.content
    assert llm.complete(QUESTION).text
    assert [part.delta for part in llm.stream_complete(QUESTION)]


def llama_index_calls_tools() -> None:
    tool = FunctionTool.from_defaults(fn=weather)
    llm = _llama_index()
    answer = llm.chat_with_tools([tool], user_msg=QUESTION)
    (call,) = llm.get_tool_calls_from_response(answer)
    assert call.tool_name == "weather"
    assert tool(**call.tool_kwargs).content.startswith("It rains in ")


def llama_index_shapes() -> None:
    assert _llama_index().as_structured_llm(Place).complete(QUESTION).raw.city


def llama_index_thinks() -> None:
    answer = _llama_index(THINKER, thinking=True).chat([ChatMessage(QUESTION)])
    assert answer.message.content
    assert "thinking" in str(answer.message.blocks) + str(answer.message.additional_kwargs)


def llama_index_sees() -> None:
    blocks = [TextBlock(text="What?"), ImageBlock(image=PIXEL.encode(), image_mimetype="image/png")]
    assert _llama_index().chat([ChatMessage(role="user", blocks=blocks)]).message.content


def llama_index_embeds() -> None:
    embedder = OllamaEmbedding(model_name=EMBEDDER, base_url=URL)
    vectors = embedder.get_text_embedding_batch(["one", "two"])
    assert len(vectors) == 2
    assert embedder.get_query_embedding("one")


CHECKS: tuple[Callable[[], None], ...] = (
    langchain_chats_and_streams,
    langchain_validates_the_model,
    langchain_calls_tools,
    langchain_shapes,
    langchain_thinks,
    langchain_sees,
    langchain_embeds,
    litellm_chats_and_streams,
    litellm_calls_tools,
    litellm_shapes,
    litellm_thinks,
    litellm_sees,
    litellm_embeds,
    litellm_holds_an_anthropic_dialogue,
    litellm_is_told_of_an_unknown_model,
    llama_index_chats_and_streams,
    llama_index_calls_tools,
    llama_index_shapes,
    llama_index_thinks,
    llama_index_sees,
    llama_index_embeds,
)


def main() -> int:
    """Run every check and return 1 if any failed."""
    failed = 0
    for check in CHECKS:
        try:
            check()
        except Exception:
            failed += 1
            sys.stdout.write(f"FAILED {check.__name__}\n{traceback.format_exc()}\n")
        else:
            sys.stdout.write(f"passed {check.__name__}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{len(CHECKS) - failed} of {len(CHECKS)} passed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
