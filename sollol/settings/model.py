"""The settings as one frozen tree: names, types, bounds, defaults and help.

The text under a field is its help: the reference page, ``sollol config init`` and the messages are
made from it. Groups about nodes are in ``nodes.py``, those about the choice of one in
``scheduling.py``; sources and their order in ``load.py``.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from sollol.settings.address import is_loopback, is_same_server
from sollol.settings.failover import FailoverSettings
from sollol.settings.nodes import (
    EMBEDDED_ID,
    DiscoverySettings,
    EmbeddedSettings,
    NodeSettings,
    node_list,
)
from sollol.settings.scheduling import (
    ModelSettings,
    QueueSettings,
    SchedulingSettings,
    check_models,
    model_map,
)
from sollol.settings.sharding import ShardingSettings
from sollol.settings.values import Count, Group, Origin, Seconds, listed


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
    max_waiting_bytes: int = Field(64 * 1024 * 1024, ge=0)
    """Bytes of request bodies held in memory, of all requests together; more of them wait in files."""
    max_spooled_bytes: int = Field(2 * 1024 * 1024 * 1024, ge=0)
    """Bytes of request bodies held in files, of all requests together; what is more gets 503."""
    max_connections: Count = 8192
    """Client connections open at once; one more gets 503. Each may need two file descriptors."""
    max_header_bytes: int = Field(65536, ge=1024)
    """Longest request head accepted, in bytes, the request line included."""
    max_headers: Count = 200
    """Most header lines a request may have."""
    header_timeout_s: Seconds = 10.0
    """Seconds a client may take to send a request's head."""
    body_stall_timeout_s: Seconds = 60.0
    """Seconds without a byte, or behind 1 KiB/s in all, after which a request body is given up."""
    write_timeout_s: Seconds = 120.0
    """Seconds a client may leave its answer unread; then its connection is closed."""
    keep_alive_s: Seconds = 75.0
    """Seconds an idle client connection stays open."""
    shutdown_grace_s: float = Field(30.0, ge=0, allow_inf_nan=False)
    """Seconds that requests in flight get to finish when the gateway stops."""
    origins: Annotated[tuple[Origin, ...], BeforeValidator(listed)] = ()
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


class UpstreamSettings(Group):
    """Requests from the gateway to nodes."""

    connect_timeout_s: Seconds = 2.0
    """Seconds to open a connection to a node."""
    first_byte_timeout_s: Seconds = 600.0
    """Most seconds until a node's answer begins. Where more is known they are fewer: ten times what is
    predicted, and 30 at least."""
    load_timeout_s: Seconds = 330.0
    """The same while the node loads the model; an Ollama gives a load up after 300 without progress."""
    stall_timeout_s: Seconds = 60.0
    """Seconds without a byte after which an answer that has begun is given up."""
    max_attempts: Count = 3
    """Nodes tried for a request, the first included."""
    max_idle_connections: int = Field(64, ge=0)
    """Idle connections kept open to each node."""


class FleetSettings(Group):
    """Requests that change nodes: pull, push, create, copy, delete; and those about an account."""

    pull_to: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(listed),
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
    canary: bool = False
    """Ask idle nodes for one token now and then: one that answers probes may hang all the same. It costs
    a prompt that a node has cached, and may keep a model in memory for one `keep_alive` longer."""
    canary_interval_s: Seconds = 30.0
    """Seconds without an answer after which an idle node is asked for one."""
    canary_timeout_s: Seconds = 10.0
    """Seconds that token may take, besides `upstream.connect_timeout_s`."""


class LogSettings(Group):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level written; `info` has one line for each request."""
    format: Literal["auto", "console", "json"] = "auto"
    """`auto` is `console` on a terminal and `json` elsewhere."""


class Settings(Group):
    """Every setting; a value is given by the command line, the environment or ``sollol.yaml``."""

    server: ServerSettings = ServerSettings()
    nodes: Annotated[tuple[NodeSettings, ...], BeforeValidator(node_list)] = ()
    """The nodes: URLs, or mappings for what a URL cannot say."""
    discovery: DiscoverySettings = DiscoverySettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    queue: QueueSettings = QueueSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    models: Annotated[dict[str, ModelSettings], BeforeValidator(model_map)] = Field(
        default_factory=dict
    )
    """Models by name: pins, aliases and fallbacks."""
    sharding: ShardingSettings = ShardingSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    failover: FailoverSettings = FailoverSettings()
    fleet: FleetSettings = FleetSettings()
    probe: ProbeSettings = ProbeSettings()
    log: LogSettings = LogSettings()

    @field_validator("models")
    @classmethod
    def _fit_together(cls, models: dict[str, ModelSettings]) -> dict[str, ModelSettings]:
        check_models(models)
        return models

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
    """Return every setting as ``group.name``, in the order of the tree.

    ``nodes`` and ``models`` are one setting each.
    """
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
