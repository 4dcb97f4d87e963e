"""The public names: listed in the reference, exported by their modules, and enough for others."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

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
    f"{PACKAGE}.models": {"AuthorizationRequest", "LastRun", "configured_client_id"},
    f"{PACKAGE}.tasks": {"enqueue", "has_workers", "run_action"},
}


def test_the_modules_export_the_public_names_which_can_be_imported() -> None:
    for module, names in PUBLIC.items():
        assert set(names) == exported(module) - INTERNAL.get(module, set())
        loaded = importlib.import_module(module)
        assert [name for name in names if getattr(loaded, name) is None] == []


def test_public_names_are_listed_in_order() -> None:
    assert {module: sorted(names) for module, names in LISTED.items()} == LISTED


def test_the_documentation_and_the_example_use_public_names_only() -> None:
    for code in (*docs.blocks("python"), *(path.read_text() for path in EXAMPLE.rglob("*.py"))):
        assert not_public(code) == []


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
        if f"{node.module}.{alias.name}" not in PUBLIC
        and alias.name not in PUBLIC.get(str(node.module), [])
    ]
