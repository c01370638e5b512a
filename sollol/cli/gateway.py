"""The running gateway as the client commands see it, over HTTP."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sollol.cli.environment import read_settings
from sollol.cli.errors import CommandError

if TYPE_CHECKING:
    import httpx

    from sollol.settings import ServerSettings

ANSWER_TIMEOUT_S = 10.0
CHAT_TIMEOUT_S = 900.0
"""A first token may wait in the queue and for the model's load, a pull for a slow disk."""

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        envvar="SOLLOL_URL",
        show_default="server.host and server.port of the settings",
        help="Address of the gateway.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for other programs to read.")]


def configured_url() -> str:
    """Return where a gateway with the settings of this place and environment listens."""
    return url_of(read_settings(None).settings.server)


def url_of(server: "ServerSettings") -> str:
    """Return where a gateway with these settings answers this machine."""
    host = "127.0.0.1" if server.host in ("0.0.0.0", "::") else server.host  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}"


class Gateway:
    """Asks the gateway at ``url`` and turns every failure into a :class:`CommandError`."""

    def __init__(self, url: str | None) -> None:
        url = url or configured_url()
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")

    def get(self, path: str) -> Any:
        """Return the JSON of a GET."""
        with self._connected(ANSWER_TIMEOUT_S) as client:
            response = client.get(self.url + path)
            if response.status_code != 200:
                raise CommandError(_error_of(response.content, response.status_code))
            return _parsed(response.content)

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        extra_s: float = 0.0,
    ) -> Any:
        """Return the JSON of a request that changes something.

        Args:
            extra_s: how long the gateway was told to wait before it answers.
        """
        with self._connected(CHAT_TIMEOUT_S + extra_s) as client:
            response = client.request(method, self.url + path, json=body)
            if not response.is_success:
                raise CommandError(_error_of(response.content, response.status_code))
            return _parsed(response.content)

    def nodes(self) -> dict[str, Any]:
        """Return what ``/sollol/v1/nodes`` answers.

        Raises:
            CommandError: as every method, and when the server is not a SOLLOL gateway.
        """
        with self._connected(ANSWER_TIMEOUT_S) as client:
            response = client.get(f"{self.url}/sollol/v1/nodes")
        answer = _parsed(response.content) if response.status_code == 200 else None
        if isinstance(answer, dict) and "nodes" in answer:
            return answer
        raise CommandError(f"{self.url} answers, but is not a SOLLOL gateway.")

    def chat(self, model: str, messages: Sequence[Mapping[str, str]]) -> Iterator[dict[str, Any]]:
        """Yield the records of a streamed ``/api/chat``; leaving the iterator stops the answer.

        Raises:
            CommandError: the gateway refused, the answer holds an error, or it ended too early.
        """
        body = {"model": model, "messages": list(messages), "stream": True}
        for record in self._records("/api/chat", body, {}):
            yield record
            if record.get("done"):
                return
        raise CommandError("Error: the answer ended before it was complete.")

    def pull(self, model: str, nodes: str | None) -> Iterator[dict[str, Any]]:
        """Yield the progress of a pull; leaving the iterator stops it.

        Raises:
            CommandError: not all nodes have the model in the end.
        """
        for record in self._records("/api/pull", {"model": model}, _chosen(nodes)):
            yield record
            if record.get("status") == "success":
                return
        raise CommandError("Error: the pull ended before it was complete.")

    def delete(self, model: str, nodes: str | None) -> list[str]:
        """Delete a model and return the ids of the nodes that were asked.

        Raises:
            CommandError: it is not gone from all of them.
        """
        with self._connected(CHAT_TIMEOUT_S) as client:
            response = client.request(
                "DELETE", f"{self.url}/api/delete", json={"model": model}, headers=_chosen(nodes)
            )
        if response.status_code != 200:
            raise CommandError(_error_of(response.content, response.status_code))
        asked: str = response.headers.get("x-sollol-nodes", self.url)
        return asked.split(",")

    def _records(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Iterator[dict[str, Any]]:
        with (
            self._connected(CHAT_TIMEOUT_S) as client,
            client.stream("POST", self.url + path, json=body, headers=headers) as response,
        ):
            if response.status_code != 200:
                raise CommandError(_error_of(response.read(), response.status_code))
            for line in response.iter_lines():
                record = _parsed(line)
                if "error" in record:
                    raise CommandError(f"Error: {record['error']}")
                yield record

    @contextmanager
    def _connected(self, timeout_s: float) -> Iterator["httpx.Client"]:
        import httpx

        timeout = httpx.Timeout(timeout_s, connect=5.0)
        has_tls = self.url.startswith("https:")  # reading the certificates only when they matter
        try:
            # A proxy of the environment is for the web, not for a gateway next door.
            with httpx.Client(trust_env=False, timeout=timeout, verify=has_tls) as client:
                yield client
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise CommandError(f"{self.url} is not an http(s) URL.", exit_code=2) from None
        except (httpx.ConnectError, httpx.ConnectTimeout):
            start = "Start one with: sollol serve"
            raise CommandError(f"No gateway answers at {self.url}. {start}") from None
        except httpx.TimeoutException:
            line = f"The gateway at {self.url} sent nothing for {timeout_s:g} seconds."
            raise CommandError(line) from None
        except httpx.HTTPError as error:
            raise CommandError(f"The connection to {self.url} broke: {error}") from None


def _chosen(nodes: str | None) -> dict[str, str]:
    return {} if nodes is None else {"X-Sollol-Nodes": nodes}


def _parsed(content: bytes | str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise CommandError("Error: the gateway's answer is not JSON.") from None


def _error_of(content: bytes, status: int) -> str:
    try:
        return f"Error: {json.loads(content)['error']}"
    except (ValueError, KeyError, TypeError):
        return f"Error: the gateway answered with status {status}."
