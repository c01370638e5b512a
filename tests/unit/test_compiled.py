"""The modules that ``make compiled`` makes C of hold nothing that mypyc gets wrong."""

import ast
import tomllib
from pathlib import Path

import pytest

from sollol.cli.checks import check_compiled
from sollol.compiled import is_compiled
from sollol.scheduling import scheduler

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WHEEL = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
COMPILED: list[str] = WHEEL["hooks"]["mypyc"]["include"]


@pytest.fixture(params=COMPILED)
def tree(request: pytest.FixtureRequest) -> ast.Module:
    path: str = request.param
    return ast.parse((ROOT / path).read_text())


def test_no_await_comes_between_an_exception_and_its_end(tree: ast.Module) -> None:
    """After one, mypyc takes an exception for its own that another task was left with."""
    for node in ast.walk(tree):
        assert not isinstance(node, ast.AsyncWith)
        if isinstance(node, ast.Try):
            awaits = [x for line in node.finalbody for x in ast.walk(line)]
            assert not any(isinstance(x, ast.Await) for x in awaits)


def test_no_struct_has_options(tree: ast.Module) -> None:
    """It makes the class without them: not frozen, not array-like, hashed otherwise."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert not node.keywords


def test_no_struct_is_decoded_where_it_is_made(tree: ast.Module) -> None:
    """Its fields have other types there: a union is a ``type``, so nothing that comes fits."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    made = {node.name for node in classes if "Struct" in ast.dump(node)}
    decoders = {"Decoder", "decode", "convert"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in decoders:
            assert not made & {x.id for x in ast.walk(node) if isinstance(x, ast.Name)}


def test_doctor_tells_whether_the_hot_path_is_compiled() -> None:
    assert check_compiled(is_compiled=True).finding == "compiled"
    assert check_compiled(is_compiled=False).finding == "plain Python"


def test_what_runs_is_known() -> None:
    assert is_compiled() != scheduler.__file__.endswith(".py")
