"""The errors a connection to a node can end in, made by type in one place.

Every text names the node and what to check, and is safe to show a caller.
"""

import os
import socket
import ssl

from sollol.errors import ConnectFailed, NodeDown, ProtocolViolation, UpstreamCut, UpstreamTimeout


def connect_failed(authority: str, error: OSError, connect_s: float) -> ConnectFailed:
    """Return the error for a connection that could not be made within ``connect_s`` seconds."""
    if isinstance(error, socket.gaierror):
        reason = f"{_lower_first(error.strerror)}; check the host name"
    elif isinstance(error, ssl.SSLError):
        reason = f"TLS failed: {error}; check the certificate and that the port speaks https"
    elif isinstance(error, TimeoutError) and error.errno is None:
        reason = f"no answer within {connect_s:g} s; check the address and firewalls"
    else:
        reason = f"{_os_reason(error)}; check that the node runs and listens there"
    return ConnectFailed(f"cannot connect to {authority}: {reason}")


def connections_closed(authority: str) -> ConnectFailed:
    """Return the error for a request to a node whose connections were closed for good."""
    return ConnectFailed(f"cannot connect to {authority}: the gateway has given the node up")


def cut(authority: str, cause: Exception | None, *, in_body: bool) -> UpstreamCut:
    """Return the error for a connection the node (or the network) ended inside an exchange."""
    where = "in the middle of its answer" if in_body else "without an answer"
    why = f" ({_os_reason(cause)})" if isinstance(cause, OSError) else ""
    text = f"{authority} closed the connection {where}{why}; check the node's log"
    return UpstreamCut(text, in_body=in_body)


def closed_here(authority: str) -> UpstreamCut:
    """Return the error a reader gets whose connection was closed on our side."""
    return UpstreamCut(f"the gateway closed its connection to {authority}")


def went_down(authority: str) -> NodeDown:
    """Return the error for a request to a node that does not answer probes any more."""
    return NodeDown(f"{authority} is down: it does not answer probes; check that it runs")


def no_answer(authority: str, limit_s: float) -> UpstreamTimeout:
    """Return the error for a response head that did not come in time."""
    return UpstreamTimeout(
        f"{authority} sent no answer within {limit_s:g} s; check whether it is loading or hangs"
    )


def stalled(authority: str, limit_s: float, *, uploading: bool) -> UpstreamTimeout:
    """Return the error for a body that stopped moving."""
    what = "took nothing more of the request" if uploading else "sent nothing more of its answer"
    text = f"{authority} {what} for {limit_s:g} s; check whether it hangs"
    return UpstreamTimeout(text, in_body=not uploading)


def dripping(authority: str, limit_s: float) -> UpstreamTimeout:
    """Return the error for an answer of which pieces come, and nothing whole."""
    text = f"{authority} completed nothing of its answer for {limit_s:g} s; check whether it hangs"
    return UpstreamTimeout(text, in_body=True)


def violation(authority: str, reason: object) -> ProtocolViolation:
    """Return the error for an answer that is not the HTTP it should be."""
    return ProtocolViolation(
        f"{authority} did not answer in proper HTTP/1.1: {reason}; check the node's URL and port"
    )


def too_long(authority: str, limit_bytes: int) -> ProtocolViolation:
    """Return the error for a body that should have been small."""
    return ProtocolViolation(
        f"the answer of {authority} is longer than {limit_bytes} bytes; check the node's URL"
    )


def _os_reason(error: OSError) -> str:
    if error.errno is None:
        return str(error) or type(error).__name__
    return _lower_first(os.strerror(error.errno))  # event loops put other texts into strerror


def _lower_first(text: str | None) -> str:
    return text[:1].lower() + text[1:] if text else "unknown reason"
