"""What the groups of settings have in common: kinds of values, and how they are read."""

import json
import os.path
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sollol.settings.address import host_with_port, normalize_url, scannable_network


def parsed_json(text: str) -> object:
    """Return what a text holds as JSON.

    Raises:
        ValueError: it is not JSON; the text says where.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at character {error.pos}") from None


def listed(value: object) -> object:
    """Split ``a,b``: the command line and the environment can only give text."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _at_home(path: Path) -> Path:
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError("the home directory is not known; give an absolute path")
    return Path(expanded)


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
