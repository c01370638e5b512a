"""The obvious design, to compare with: FastAPI, a pydantic body, httpx, StreamingResponse."""

import argparse
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict
from starlette.background import BackgroundTask


class ChatBody(BaseModel):
    """A chat, with whatever other fields the caller sends."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[dict[str, Any]]
    stream: bool = True


def create_app(node_url: str) -> FastAPI:
    """Return a proxy for chats in front of one node."""
    app = FastAPI()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1000)
    client = httpx.AsyncClient(base_url=node_url, timeout=None, limits=limits)  # noqa: S113

    @app.post("/api/chat")
    async def chat(body: ChatBody) -> StreamingResponse:
        request = client.build_request("POST", "/api/chat", json=body.model_dump())
        answer = await client.send(request, stream=True)
        return StreamingResponse(
            answer.aiter_raw(),
            status_code=answer.status_code,
            media_type=answer.headers["content-type"],
            background=BackgroundTask(answer.aclose),
        )

    return app


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--node", required=True, help="URL of the node")
    options = parser.parse_args()
    uvicorn.run(
        create_app(options.node),
        port=options.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        backlog=4096,
    )


if __name__ == "__main__":
    main()
