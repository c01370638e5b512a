"""A balancer without a queue in a virtual run."""

from sollol.bench.balance import Balance
from sollol.bench.virtual.drive import Drive
from sollol.bench.virtual.node import Visit
from sollol.bench.workload import Request


class DirectBalancer:
    """Sends each request on at once."""

    def __init__(self, drive: Drive, balance: Balance) -> None:
        self._drive = drive
        self._balance = balance

    def start(self) -> None:
        """Nothing goes on by itself."""

    def submit(self, index: int, request: Request) -> None:
        """Take a request in."""
        node = self._balance.choose(request.model)
        if not node:
            self._drive.finish(index, "model_not_found")
            return
        self._drive.send(index, self._drive.nodes[node], self, 0.0)

    def began(self, index: int, visit: Visit) -> None:
        """Do nothing: nobody waits here."""

    def ended(self, index: int, visit: Visit) -> None:
        """Note that a node has one request less."""
        self._balance.ended(self._drive.records[index].node)
