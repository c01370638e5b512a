"""The routes on FastAPI; made once in a process, whatever gateways it runs.

What is of use to each of them: ``own.py`` (bodies and errors), ``served.py`` (the gateway).
"""

from sollol import __version__
from sollol.api import decisions, inventory, models, nodes, overview, preview, shards, status
from sollol.api.openapi import DescribedApi

LOCAL_API = DescribedApi(
    title="SOLLOL", version=__version__, redirect_slashes=False, redoc_url=None
)
"""It answers from the gateway in a request's scope: see ``asgi.py``."""

for _part in (inventory, status, models, nodes, shards, decisions, preview, overview):
    LOCAL_API.include_router(_part.router)
