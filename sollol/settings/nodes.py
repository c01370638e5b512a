"""Settings of the nodes: those that are listed, those that are found, and the embedded one."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from sollol.settings.address import OLLAMA_PORT, host_and_port
from sollol.settings.values import (
    Count,
    ExpandedPath,
    Group,
    HostAndPort,
    Network,
    Port,
    Seconds,
    Url,
    listed,
    parsed_json,
)
from sollol.types import Engine


def node_list(value: object) -> object:
    """Accept node URLs separated by commas, or a JSON list for what a URL cannot say."""
    if not isinstance(value, str | list | tuple):
        raise ValueError("expected a list of nodes")
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return listed(value)
    return parsed_json(value)


def _has_zeroconf(is_on: bool) -> bool:
    if is_on and find_spec("zeroconf") is None:
        raise ValueError("needs the package zeroconf: pip install zeroconf")
    return is_on


ModelPattern = Annotated[str, Field(min_length=1)]
EMBEDDED_ID = "embedded"
"""The name of the node inside SOLLOL."""


class NodeSettings(Group):
    """A server that requests are sent to: its URL, or this mapping."""

    url: Url
    """Base address; `http://` and port 11434 are assumed where it names none."""
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")
    """Its id in logs, metrics and headers; `host:port` of the URL when not given."""
    engine: Literal["auto", "ollama", "llama_server", "openai"] = "auto"
    """Its software; `auto` asks the node."""
    slots: Count | None = None
    """Requests it runs at once for one model; what the node reports, else 1, when not given."""
    api_key: SecretStr | None = None
    """Sent to the node as `Authorization: Bearer`; from the file or the environment only."""
    draining: bool = False
    """Known, but gets no new requests."""
    memory_gb: float | None = Field(None, gt=0, allow_inf_nan=False)
    """What its models may take of its memory together, in units of 1024^3 bytes; learned by
    watching when not given."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Its share of the requests under the policy `weighted`."""
    allow_models: Annotated[tuple[ModelPattern, ...], BeforeValidator(listed)] = ()
    """The only models it gets requests for: names, or patterns such as `qwen3:*`; all when empty."""
    deny_models: Annotated[tuple[ModelPattern, ...], BeforeValidator(listed)] = ()
    """Models it gets no requests for, whatever `allow_models` says."""

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value

    @property
    def id(self) -> str:
        """The node's name everywhere in SOLLOL."""
        return self.name or host_and_port(self.url)

    @property
    def memory_bytes(self) -> int | None:
        """What its models may take of its memory; ``None`` where nobody said."""
        return None if self.memory_gb is None else int(self.memory_gb * 1024**3)

    @property
    def known_engine(self) -> Engine | None:
        """The node's software; ``None`` means the node must be asked."""
        return None if self.engine == "auto" else Engine(self.engine)


class DiscoverySettings(Group):
    """Nodes that are found without being listed."""

    local: bool = True
    """Look for an Ollama on this machine."""
    local_url: Url = "http://127.0.0.1:11434"
    """Where that Ollama is; `OLLAMA_HOST`, when set, changes the default."""
    dns: Annotated[tuple[HostAndPort, ...], BeforeValidator(listed)] = ()
    """Names (`host` or `host:port`) of which each address is a node."""
    mdns: Annotated[bool, AfterValidator(_has_zeroconf)] = False
    """Look for nodes that announce themselves on the local network (`_ollama._tcp`,
    `_sollol-node._tcp`). Needs the extra `mdns`."""
    scan: Annotated[tuple[Network, ...], BeforeValidator(listed), Field(max_length=16)] = ()
    """Private networks, such as `192.168.1.0/24`, whose every address is tried; /20 at most."""
    scan_ports: Annotated[tuple[Port, ...], BeforeValidator(listed), Field(max_length=8)] = (
        OLLAMA_PORT,
    )
    """Ports that a scan tries."""
    interval_s: Seconds = 10.0
    """Seconds between two looks; a scan has an interval of its own."""
    scan_interval_s: Seconds = 300.0
    """Seconds between two scans."""
    forget_after_s: Seconds = 600.0
    """Seconds a found node may be down; then it is removed until it is found again."""


class EmbeddedSettings(Group):
    """The llama.cpp node inside SOLLOL, with a small model: something answers on a bare machine."""

    enabled: bool = True
    """Start it when no other node can be reached."""
    context_length: Count = 4096
    """Tokens of context for each slot."""
    slots: Count = 4
    """Requests it runs at once."""
    threads: Count | None = None
    """CPU threads; half of the cores when not given."""
    start_timeout_s: Seconds = 120.0
    """Seconds until it must be ready."""
    cache_dir: ExpandedPath = Path("~/.cache/sollol")
    """Where the model file is put together; `XDG_CACHE_HOME`, when set, changes the default."""
    binary: ExpandedPath | None = None
    """A `llama-server` to run instead of the packaged one."""
    model: ExpandedPath | None = None
    """A GGUF file to serve instead of the packaged model."""
