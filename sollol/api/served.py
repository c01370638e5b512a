"""How a route on FastAPI gets its gateway; the routes are made once, for all gateways of a process."""

from typing import Annotated

from fastapi import Depends, Request

from sollol.api.asgi import GATEWAY_KEY
from sollol.gateway.gateway import Gateway


async def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.scope[GATEWAY_KEY]
    return gateway


Served = Annotated[Gateway, Depends(_gateway)]
"""The gateway that a request came to, as a parameter of what answers it."""
