"""Addresses as people write them: node URLs, listening hosts, ``OLLAMA_HOST``."""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

OLLAMA_PORT = 11434
RPC_PORT = 50052
"""Where the RPC server of llama.cpp listens unless told otherwise."""
_DEFAULT_PORTS = {"http": OLLAMA_PORT, "https": 443}
ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
"""Hosts that a server listens on to be reached at every address of its machine."""
MAX_SCANNED = 4096
"""Addresses of the largest network that is scanned, a /20."""
_SCANNABLE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?")


def normalize_url(text: str, *, http_port: int = OLLAMA_PORT) -> str:
    """Return ``text`` as ``scheme://host:port[/path]``, without a slash at the end.

    Args:
        text: a URL; ``http://`` is assumed when it names no scheme. The path is kept.
        http_port: the port of an ``http`` URL that names none; ``https`` means 443.

    Raises:
        ValueError: it is not an http(s) URL, or it holds credentials, a query or a fragment.
            The message does not repeat ``text``, which may hold a password.
    """
    text = text.strip()
    if re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError("a URL must not contain spaces or control characters")
    parts = urlsplit(text if "://" in text else f"http://{text}")
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("the URL must start with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("credentials in a URL are refused; use api_key in sollol.yaml")
    if parts.query or parts.fragment:
        raise ValueError("a URL with a query or a fragment is no base address")
    port = _port(parts) or (443 if parts.scheme == "https" else http_port)
    return f"{parts.scheme}://{_host(parts)}:{port}{parts.path.rstrip('/')}"


def host_and_port(url: str) -> str:
    """Return the ``host:port`` of a normalized URL."""
    return urlsplit(url).netloc


def host_with_port(text: str) -> str:
    """Return ``text`` as ``host:port``; 11434 when it names no port.

    Raises:
        ValueError: it is anything else, a URL too.
    """
    if "/" in text:
        raise ValueError("expected host or host:port")
    return host_and_port(normalize_url(text))


def scannable_network(text: str) -> str:
    """Return a network, such as ``192.168.1.0/24``, that may be scanned.

    Raises:
        ValueError: it is no network, it has more than ``MAX_SCANNED`` addresses, or others than
            this machine and its private networks are in it.
    """
    network = ipaddress.ip_network(text.strip(), strict=False)
    if network.num_addresses > MAX_SCANNED:
        raise ValueError(
            f"{network} has over {MAX_SCANNED} addresses; the largest scanned is a /20"
        )
    same_version = (allowed for allowed in _SCANNABLE if allowed.version == network.version)
    if not any(network.subnet_of(allowed) for allowed in same_version):  # type: ignore[arg-type]
        raise ValueError(
            f"{network} is not private; only loopback and private networks are scanned"
        )
    return str(network)


def worker_address(text: str) -> str:
    """Return the address of an RPC server as ``host:port``; 50052 when it names no port.

    An RPC server runs what anybody sends it, so a public address is refused; what a name leads to
    is looked at when it is used.

    Raises:
        ValueError: it is no IPv4 address or name, or a public address.
    """
    if "/" in text or "[" in text or text.count(":") > 1:
        raise ValueError("expected host or host:port; llama.cpp reaches workers by IPv4 and name")
    address = host_and_port(normalize_url(text, http_port=RPC_PORT))
    check_private(host_of(address))
    return address


def listening_host(text: str) -> str:
    """Return the address that an RPC server is to listen on.

    Raises:
        ValueError: it is no IPv4 address of a private network or of this machine.
    """
    if text == "localhost":
        return "127.0.0.1"
    try:
        address = str(ipaddress.IPv4Address(text.strip()))
    except ValueError:
        raise ValueError(
            "an RPC server of llama.cpp listens on an IPv4 address, such as 10.0.0.2"
        ) from None
    if address in ALL_ADDRESSES:
        raise ValueError(
            "that is every address of this machine, and whoever reaches an RPC server can run code "
            "here; name the one in the private network"
        )
    check_private(address)
    return address


def host_of(address: str) -> str:
    """Return the host of ``host:port``."""
    return address.rpartition(":")[0]


def check_private(host: str) -> None:
    """Return if ``host`` is a name, or an address of this machine or of a private network.

    Raises:
        ValueError: it is a public address.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    allowed = (network for network in _SCANNABLE if network.version == address.version)
    if not any(address in network for network in allowed):
        raise ValueError(
            f"{host} is a public address, and whoever reaches an RPC server can run code on its "
            "machine; use a private network, a VPN or an SSH tunnel"
        )


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach ``host``: a loopback address or ``localhost``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_same_server(url: str, host: str, port: int) -> bool:
    """Say whether the normalized ``url`` leads to a server that listens on ``host`` and ``port``.

    Only addresses of this machine that can be told without a look-up are recognised.
    """
    parts = urlsplit(url)
    if port == 0 or parts.port != port:
        return False
    target = parts.hostname or ""
    if target == host.lower():
        return True
    return _is_here(target) and _is_here(host)


def ollama_host_url(text: str) -> str:
    """Return where a client finds the Ollama whose ``OLLAMA_HOST`` is ``text``.

    ``OLLAMA_HOST`` is an address to listen on, so "all interfaces" is reached through loopback.
    A URL with ``http://`` and no port means port 80, as it does for Ollama.

    Raises:
        ValueError: as :func:`normalize_url`.
    """
    text = text.strip().strip("\"'")
    if not text or text.startswith(":"):
        text = f"127.0.0.1{text}"
    url = normalize_url(text, http_port=80 if "://" in text else OLLAMA_PORT)
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _is_here(host: str) -> bool:
    return is_loopback(host) or host in ALL_ADDRESSES


def _port(parts: SplitResult) -> int | None:
    try:
        port = parts.port
    except ValueError:
        raise ValueError("the port must be a number from 1 to 65535") from None
    if port == 0:
        raise ValueError("the port must be a number from 1 to 65535")
    return port


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if "[" in parts.netloc:
        return f"[{ipaddress.IPv6Address(host)}]"
    if not _HOST_NAME.fullmatch(host):
        raise ValueError("the URL names no valid host")
    try:
        host.encode("idna")  # what a look-up of the name does
    except UnicodeError:
        raise ValueError("the URL names no valid host") from None
    return host
