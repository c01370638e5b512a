"""``sollol queue``: who waits for a slot, in what order and for how long."""

from sollol.cli.decision_text import Told, seconds
from sollol.cli.gateway import Gateway, JsonOption, UrlOption
from sollol.cli.output import print_json, print_table

EXAMPLES = """Examples:

  sollol queue

  sollol queue --json | jq '.waiting[0]'"""

_COLUMNS = (
    "PLACE", "REQUEST", "MODEL", "CALLER", "PRIORITY", "LEVEL", "WAITED", "STILL WAITS", "FOR NODE", "WHY",
)  # fmt: skip


def queue(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show the requests that wait, the next one first; age adds to their level."""
    answer = Gateway(url).get("/sollol/v1/queue")
    if as_json:
        print_json(answer)
        return
    if not answer["waiting"]:
        print("Nobody waits.")
        return
    print_table(_COLUMNS, [_row(waiting) for waiting in answer["waiting"]])
    print(f"\nWaiting: {answer['length']} of at most {answer['max_length']}")


def _row(waiting: Told) -> list[str]:
    return [
        str(waiting["position"]),
        waiting["request_id"],
        waiting["model"],
        waiting["caller"],
        str(waiting["priority"]),
        f"{waiting['level']:.1f}",
        seconds(waiting["waited_s"]),
        seconds(waiting["predicted_wait_s"]),
        waiting["node_id"],
        waiting["why"],
    ]
