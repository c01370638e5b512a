"""Every error a request can end in, as one tree.

    SollolError
    ├── InvalidRequest            400  the caller's fault; another node would say the same
    │   ├── InvalidBody                refused before a handler saw it: not JSON, or not the route's
    │   ├── InvalidOption         500  as Ollama, which finds it when it runs the request
    │   ├── RequestTooLarge       413
    │   ├── BodyTooSlow           408
    │   ├── InputTooLong               for the context of a node that embeds it
    │   └── UnsupportedByEngine        of a llama-server; an Ollama node could do it
    ├── ModelNotFound             404
    ├── RouteNotFound             404  as Ollama says it: plain text
    ├── NodesTooOld               404  nodes have the model, but not the route
    ├── NodeNotFound              404  of our own API
    ├── DecisionNotFound          404  of our own API
    ├── RequestLoop               508  the gateway itself sent the request on, and it came back
    ├── NodeConflict              409  of our own API: the id or the server is taken
    ├── Overloaded                503  come back after ``retry_after_s``
    │   ├── QueueFull
    │   ├── ShuttingDown
    │   ├── NoNodeAvailable
    │   └── DoesNotFit                 the model needs more memory than all workers have
    ├── DeadlineExceeded          504
    │   ├── QueueTimeout
    │   └── UpstreamTimeout            the node's fault; counts against it
    ├── UpstreamError             502  the node's fault; counts against it
    │   ├── ConnectFailed              nothing was sent: safe to try another node
    │   ├── MissingOnNode         404  it lacks the model or the route; another may not
    │   ├── UpstreamStatus       5xx  or 429, or an error in place of a stream: the node's own words
    │   ├── WorkerFailed               an RPC server of llama.cpp cannot be used
    │   ├── CoordinatorFailed          a llama-server over several workers did not start or ended
    │   ├── UpstreamCut                the connection ended inside a message
    │   │   └── NodeDown               the gateway ended it: probes had found the node down
    │   ├── WrongAnswer                well-formed, but of no engine: a page, a redirection, a wrong key
    │   ├── CannotContinue             no node can go on with an answer that broke off
    │   └── ProtocolViolation          not HTTP, or not the framing the engine promises
    ├── ModelBroken               500  the files of a model are damaged, incomplete or unreadable
    ├── FleetFailed               500  some nodes did what was asked, or each failed in its own way
    └── ClientDisconnected        499  nobody is left to answer; logged only

``status`` is the HTTP status and ``code`` a stable name for logs, metrics and our own API.
``wire/bodies.py`` chooses the dialect of the body; ``gateway/failover.py`` decides on retries.
What a node says of the request itself (400 and the like) is not an exception: it is passed on as it
came.
"""


class SollolError(Exception):
    """An ending of a request that has an HTTP status; ``str(error)`` is safe to show a caller."""

    status = 500
    code = "internal_error"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InvalidRequest(SollolError):
    """The request itself is wrong; no node can answer it."""

    status = 400
    code = "invalid_request"


class InvalidBody(InvalidRequest):
    """The body was refused before any handler saw it: not JSON, or not the JSON of the route.

    On ``/v1`` such errors are written differently from a handler's, see
    :func:`sollol.wire.bodies.error_response`.
    """


class InvalidOption(InvalidRequest):
    """A value that Ollama finds wrong only when it runs the request, and answers with 500."""

    status = 500
    code = "invalid_option"


class RequestTooLarge(InvalidRequest):
    """The body is longer than ``server.max_body_bytes``."""

    status = 413
    code = "request_too_large"


class BodyTooSlow(InvalidRequest):
    """The body stopped coming, or comes too slowly to be waited for."""

    status = 408
    code = "body_too_slow"


class InputTooLong(InvalidRequest):
    """A text to embed has more tokens than a node takes; in the words of Ollama.

    Args:
        most_tokens: what it takes, with those that a tokenizer adds.
    """

    code = "input_too_long"

    def __init__(self, most_tokens: int) -> None:
        super().__init__("the input length exceeds the context length")
        self.most_tokens = most_tokens


class UnsupportedByEngine(InvalidRequest):
    """A llama-server cannot do this; an Ollama node could."""

    code = "unsupported_by_engine"


class ModelNotFound(SollolError):
    """No node has the model."""

    status = 404
    code = "model_not_found"


class RouteNotFound(SollolError):
    """There is no such route, here or on any node that could have it."""

    status = 404
    code = "route_not_found"

    def __init__(self) -> None:
        super().__init__("404 page not found")


class NodesTooOld(SollolError):
    """The nodes that have the model are of a version without the route."""

    status = 404
    code = "nodes_too_old"


class RequestLoop(SollolError):
    """The request came back to a gateway that had sent it on: gateways list each other as nodes.

    508 is what no engine says, so that the gateway that sent it back tells it from a failure.
    """

    status = 508
    code = "request_loop"

    def __init__(self) -> None:
        super().__init__("the request came back to a gateway that it has been through")


class NodeNotFound(SollolError):
    """No node has the id."""

    status = 404
    code = "node_not_found"


class DecisionNotFound(SollolError):
    """The journal has no request with an id, or has it no more."""

    status = 404
    code = "decision_not_found"


class NodeConflict(SollolError):
    """What is asked for does not go with the nodes as they are."""

    status = 409
    code = "node_conflict"


class Overloaded(SollolError):
    """There is no room now; the same request may succeed later."""

    status = 503
    code = "overloaded"


class QueueFull(Overloaded):
    """The waiting queue is at its bound."""

    code = "queue_full"


class ShuttingDown(Overloaded):
    """The gateway stops, and does not wait for what has not begun."""

    code = "shutting_down"

    def __init__(self) -> None:
        super().__init__("the gateway is shutting down", retry_after_s=1.0)


class NoNodeAvailable(Overloaded):
    """Nodes that could serve the request exist, or none is known at all, but none is up."""

    code = "no_node_available"


class DoesNotFit(Overloaded):
    """The workers together have too little memory for a model; the text says what would help."""

    code = "does_not_fit"


class DeadlineExceeded(SollolError):
    """The time the request was given has passed."""

    status = 504
    code = "deadline_exceeded"


class QueueTimeout(DeadlineExceeded):
    """The request waited in the queue for longer than it may."""

    code = "queue_timeout"


class UpstreamTimeout(DeadlineExceeded):
    """A node accepted the request and then sent nothing for too long.

    Args:
        in_body: it had begun to answer.
    """

    code = "upstream_timeout"

    def __init__(self, message: str, *, in_body: bool = False) -> None:
        super().__init__(message)
        self.in_body = in_body


class UpstreamError(SollolError):
    """A node failed while it served the request."""

    status = 502
    code = "upstream_error"


class ConnectFailed(UpstreamError):
    """No connection to the node could be made, so it has seen nothing of the request."""

    code = "connect_failed"


class MissingOnNode(UpstreamError):
    """A node answered 404. Its answer is kept for the case that no other node does better.

    Args:
        lacks_route: the answer is plain text: it is the route that is missing, not the model.
    """

    status = 404
    code = "missing_on_node"

    def __init__(
        self, message: str, content_type: bytes, body: bytes, *, lacks_route: bool
    ) -> None:
        super().__init__(message)
        self.content_type = content_type
        self.body = body
        self.lacks_route = lacks_route


class UpstreamStatus(UpstreamError):
    """A node answered with an error that may be its own. It is kept for the case that no other does better.

    Args:
        status: the node's; 200 where the first record of a stream is the error.
    """

    code = "upstream_status"

    def __init__(
        self,
        message: str,
        status: int,
        content_type: bytes,
        body: bytes,
        *,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status
        self.content_type = content_type
        self.body = body


class WorkerFailed(UpstreamError):
    """An RPC server of llama.cpp cannot be reached, or must not or cannot be used."""

    code = "worker_failed"


class CoordinatorFailed(UpstreamError):
    """A model over several workers could not be started; the text says why and what to do."""

    code = "coordinator_failed"


class UpstreamCut(UpstreamError):
    """The node's connection ended before its answer was complete.

    Args:
        in_body: it had begun to answer.
    """

    code = "upstream_cut"

    def __init__(self, message: str, *, in_body: bool = True) -> None:
        super().__init__(message)
        self.in_body = in_body


class NodeDown(UpstreamCut):
    """The gateway closed the connection, as the node did not answer probes any more."""

    code = "node_down"


class CannotContinue(UpstreamError):
    """No other node can go on with an answer that broke off; the text says why."""

    code = "cannot_continue"


class ProtocolViolation(UpstreamError):
    """The node's answer is not what its protocol allows."""

    code = "protocol_violation"


class WrongAnswer(UpstreamError):
    """A node answered, but with what is no answer of the route.

    Args:
        may_be_request: it refuses something, in no engine's words: others may do so too.
    """

    code = "wrong_answer"

    def __init__(self, message: str, *, may_be_request: bool = False) -> None:
        super().__init__(message)
        self.may_be_request = may_be_request


class ModelBroken(SollolError):
    """The files of a model are damaged, incomplete or unreadable; the text says what to do."""

    code = "model_broken"


class FleetFailed(SollolError):
    """Several nodes were asked and not all did it; the text says which did and which did not."""

    code = "fleet_failed"


class ClientDisconnected(SollolError):
    """The caller left; the upstream request is cancelled and nobody is answered."""

    status = 499
    code = "client_disconnected"
