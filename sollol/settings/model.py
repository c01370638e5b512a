"""The settings as one frozen tree: names, types, bounds, defaults and help.

The text under a field is its help: the reference page, ``sollol config init`` and the messages are
made from this file. Sources and their order are in ``load.py``.
"""

import json
import os.path
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sollol.settings.address import (
    OLLAMA_PORT,
    host_and_port,
    host_with_port,
    is_loopback,
    is_same_server,
    normalize_url,
    scannable_network,
)
from sollol.types import Engine


def _listed(value: object) -> object:
    """Split ``a,b``: the command line and the environment can only give text."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _node_list(value: object) -> object:
    """Accept node URLs separated by commas, or a JSON list for what a URL cannot say."""
    if not isinstance(value, str | list | tuple):
        raise ValueError("expected a list of nodes")
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return _listed(value)
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at character {error.pos}") from None


def _at_home(path: Path) -> Path:
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError("the home directory is not known; give an absolute path")
    return Path(expanded)


def _none_if_off(value: object) -> object:
    """Take ``off`` for nothing: an empty variable of the environment counts as not given."""
    return None if value in ("", "off", False) else value


def _has_zeroconf(is_on: bool) -> bool:
    if is_on and find_spec("zeroconf") is None:
        raise ValueError("needs the package zeroconf: pip install zeroconf")
    return is_on


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
ExpandedPath = Annotated[Path, AfterValidator(_at_home)]
Port = Annotated[int, Field(ge=1, le=65535)]
Url = Annotated[str, AfterValidator(normalize_url)]
HostAndPort = Annotated[str, AfterValidator(host_with_port)]
Network = Annotated[str, AfterValidator(scannable_network)]
Origin = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)$")]


class Group(BaseModel):
    """What all groups share: frozen, closed, and help from the text under each field."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        hide_input_in_errors=True,
    )


class ServerSettings(Group):
    """The port that clients talk to."""

    # Before `host`, whose check reads it.
    insecure: bool = False
    """Listen on an address that other machines reach although there is no access control."""
    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on. Any other than loopback needs `insecure`."""
    port: int = Field(11435, ge=0, le=65535)
    """TCP port to listen on; 0 takes a free one."""
    max_body_bytes: Count = 256 * 1024 * 1024
    """Longest request body accepted, in bytes; images arrive inside it. Longer ones get 413."""
    max_header_bytes: int = Field(65536, ge=1024)
    """Longest request head accepted, in bytes, the request line included."""
    max_headers: Count = 200
    """Most header lines a request may have."""
    header_timeout_s: Seconds = 10.0
    """Seconds a client may take to send a request's head."""
    body_stall_timeout_s: Seconds = 60.0
    """Seconds without a byte after which a request body is given up."""
    write_timeout_s: Seconds = 120.0
    """Seconds a client may leave its answer unread; then its connection is closed."""
    keep_alive_s: Seconds = 75.0
    """Seconds an idle client connection stays open."""
    shutdown_grace_s: float = Field(30.0, ge=0, allow_inf_nan=False)
    """Seconds that requests in flight get to finish when the gateway stops."""
    origins: Annotated[tuple[Origin, ...], BeforeValidator(_listed)] = ()
    """Origins of web pages that may call the API, besides pages of this machine; `*` allows all."""

    @field_validator("host")
    @classmethod
    def _is_private(cls, host: str, info: ValidationInfo) -> str:
        if is_loopback(host) or info.data.get("insecure"):
            return host
        raise ValueError(
            f"other machines reach {host}, and API keys are not available yet in this version: "
            "use loopback, a reverse proxy, or --insecure knowingly"
        )


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

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value

    @property
    def id(self) -> str:
        """The node's name everywhere in SOLLOL."""
        return self.name or host_and_port(self.url)

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
    dns: Annotated[tuple[HostAndPort, ...], BeforeValidator(_listed)] = ()
    """Names (`host` or `host:port`) of which each address is a node."""
    mdns: Annotated[bool, AfterValidator(_has_zeroconf)] = False
    """Look for nodes that announce themselves on the local network (`_ollama._tcp`,
    `_sollol-node._tcp`). Needs the extra `mdns`."""
    scan: Annotated[tuple[Network, ...], BeforeValidator(_listed), Field(max_length=16)] = ()
    """Private networks, such as `192.168.1.0/24`, whose every address is tried; /20 at most."""
    scan_ports: Annotated[tuple[Port, ...], BeforeValidator(_listed), Field(max_length=8)] = (
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


class QueueSettings(Group):
    """Requests that wait for a free slot."""

    max_length: int = Field(512, ge=0)
    """Requests that may wait at once; one more gets 503."""
    timeout_s: Seconds = 300.0
    """Seconds a request may wait; then it gets 504."""


class SchedulingSettings(Group):
    """Which node gets a request, and what is learned for that."""

    prewarm: bool = True
    """Load a model before it is asked for where its copies cannot serve the demand for long."""
    state_file: Annotated[ExpandedPath | None, BeforeValidator(_none_if_off)] = Path(
        "~/.local/state/sollol/estimates.json"
    )
    """Where learned speeds and lengths are kept between runs; `off` for nowhere.
    `XDG_STATE_HOME`, when set, changes the default."""


class UpstreamSettings(Group):
    """Requests from the gateway to nodes."""

    connect_timeout_s: Seconds = 2.0
    """Seconds to open a connection to a node."""
    first_byte_timeout_s: Seconds = 600.0
    """Seconds until a node's answer begins; loading a large model from disk is in it."""
    stall_timeout_s: Seconds = 120.0
    """Seconds without a byte after which a started answer is given up."""
    max_attempts: Count = 3
    """Nodes tried for a request, the first included."""
    max_idle_connections: int = Field(64, ge=0)
    """Idle connections kept open to each node."""


class FleetSettings(Group):
    """Requests that change nodes: pull, push, create, copy, delete; and those about an account."""

    pull_to: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(_listed),
        Field(min_length=1),
    ] = ("all",)
    """Where a model goes that no node has: `all` Ollama nodes, `one` (the least on disk), or ids."""
    push_from: str | None = Field(None, min_length=1)
    """Id of the node that pushes, with its key; when not given, the holder with the lowest id."""
    cloud_node: str | None = Field(None, min_length=1)
    """Id of the node whose account at ollama.com is used; when not given, the one with the lowest id."""
    stall_timeout_s: Seconds = 600.0
    """Seconds a node may be silent; checking the digest of a large model on a slow disk is in it."""

    @field_validator("pull_to")
    @classmethod
    def _is_one_choice(cls, pull_to: tuple[str, ...]) -> tuple[str, ...]:
        if len(pull_to) > 1 and {"all", "one"} & set(pull_to):
            raise ValueError("give `all`, `one` or ids of nodes, not several of these")
        return pull_to


class ProbeSettings(Group):
    """How the gateway learns which nodes are up and what they have."""

    interval_s: Seconds = 5.0
    """Seconds between two looks at a node: its health, its models, and which are in memory."""
    timeout_s: Seconds = 2.0
    """Seconds a node may take to answer a probe."""
    fall: Count = 3
    """Failed probes in a row that make a node unhealthy; a refused connection does so at once."""
    rise: Count = 1
    """Good probes in a row that make it healthy."""


class LogSettings(Group):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level written; `info` has one line for each request."""
    format: Literal["auto", "console", "json"] = "auto"
    """`auto` is `console` on a terminal and `json` elsewhere."""


class Settings(Group):
    """Every setting; a value is given by the command line, the environment or ``sollol.yaml``."""

    server: ServerSettings = ServerSettings()
    nodes: Annotated[tuple[NodeSettings, ...], BeforeValidator(_node_list)] = ()
    """The nodes: URLs, or mappings for what a URL cannot say."""
    discovery: DiscoverySettings = DiscoverySettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    queue: QueueSettings = QueueSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    fleet: FleetSettings = FleetSettings()
    probe: ProbeSettings = ProbeSettings()
    log: LogSettings = LogSettings()

    @field_validator("nodes")
    @classmethod
    def _are_distinct(
        cls, nodes: tuple[NodeSettings, ...], info: ValidationInfo
    ) -> tuple[NodeSettings, ...]:
        server: ServerSettings | None = info.data.get("server")
        ids: set[str] = set()
        urls: set[str] = set()
        for node in nodes:
            if node.url in urls:
                raise ValueError(f"{node.url} is listed twice")
            if node.id == EMBEDDED_ID:
                raise ValueError(f"{EMBEDDED_ID} is the name of the gateway's own node")
            if node.id in ids:
                raise ValueError(f"two nodes are called {node.id}; give one another name")
            if server and is_same_server(node.url, server.host, server.port):
                raise ValueError(f"{node.url} is the address of this gateway itself")
            ids.add(node.id)
            urls.add(node.url)
        return nodes


NOT_SETTINGS = ("SOLLOL_CONFIG", "SOLLOL_URL")
"""Environment variables that are read elsewhere: the file's path and the clients' gateway."""


def setting_names() -> tuple[str, ...]:
    """Return every setting as ``group.name``, in the order of the tree; ``nodes`` is one of them."""
    names: list[str] = []
    for field, info in Settings.model_fields.items():
        group = info.annotation
        if isinstance(group, type) and issubclass(group, Group):
            names += [f"{field}.{name}" for name in group.model_fields]
            continue
        names.append(field)
    return tuple(names)


def environment_name(name: str) -> str:
    """Return the environment variable of the setting ``group.name``."""
    return "SOLLOL_" + name.upper().replace(".", "__")
