"""The public names: listed in the reference, exported by their modules, and enough for others."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import docs

PACKAGE = "django_ilert_oauth"
EXAMPLE = docs.ROOT / "example_project"
LISTED = {module: row[0].split(", ") for module, row in docs.rows("Module").items()}
PUBLIC = LISTED | {
    f"{PACKAGE}.exceptions": list(docs.rows("Exception")),
    f"{PACKAGE}.signals": list(docs.rows("Signal")),
}
#: Defined beside the public ones, for the package itself.
INTERNAL = {
    f"{PACKAGE}.models": {"AuthorizationRequest", "PendingRevocation", "configured_client_id"}
}


@pytest.mark.parametrize("module", PUBLIC)
def test_a_module_exports_the_public_names(module: str) -> None:
    assert set(PUBLIC[module]) == exported(module) - INTERNAL.get(module, set())


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_can_be_imported(module: str) -> None:
    for name in PUBLIC[module]:
        assert getattr(importlib.import_module(module), name) is not None


@pytest.mark.parametrize("module", LISTED)
def test_public_names_are_listed_in_order(module: str) -> None:
    assert LISTED[module] == sorted(LISTED[module])


@pytest.mark.parametrize("code", docs.blocks("python"))
def test_the_documentation_uses_public_names_only(code: str) -> None:
    assert not_public(code) == []


@pytest.mark.parametrize("path", sorted(EXAMPLE.rglob("*.py")), ids=lambda path: path.stem)
def test_the_example_uses_public_names_only(path: Path) -> None:
    assert not_public(path.read_text()) == []


def exported(module: str) -> set[str]:
    """What ``__all__`` says, or else what is defined there without an underscore in front."""
    loaded = importlib.import_module(module)
    if names := vars(loaded).get("__all__"):
        return set(names)
    tree = ast.parse(Path(str(loaded.__file__)).read_text())
    return {name for name in defined(tree) if not (name.startswith("_") or name.isupper())} - {
        "logger"
    }


def defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def not_public(code: str) -> list[str]:
    return [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE)
        for alias in node.names
        if alias.name not in PUBLIC.get(str(node.module), modules(str(node.module)))
    ]


def modules(package: str) -> list[str]:
    return [name.removeprefix(f"{package}.") for name in PUBLIC]
