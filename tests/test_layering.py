from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import django_ilert_oauth

PACKAGE = Path(django_ilert_oauth.__file__).parent
#: The floors of the house from the bottom up. A module stands where its longest name is listed.
LAYERS = [
    {"error_messages", "exceptions", "_http_exceptions", "internal.scopes", "signals", ""},
    {"oauth"},
    {"internal.setting_values"},
    {"internal.key_source"},
    {"conf"},
    {"internal.crypto", "internal.db", "internal.signed_scopes"},
    {"checks", "models"},
    {"apps", "internal"},
    {"flows"},
    {"api"},
    {"admin", "background", "decorators", "forms", "httpx", "management", "session"}
    | {"tasks", "templatetags", "urls", "views"},
    {"testing", "pytest_plugin"},
]
LONGEST_FUNCTION = 40

Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


PATHS = {
    module_name(path): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "migrations" not in path.parts
}
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}


def layer(module: str) -> int:
    while not any(module in names for names in LAYERS):
        assert "." in module, f"{module} stands on no floor"
        module = module.rpartition(".")[0]
    return next(number for number, names in enumerate(LAYERS) if module in names)


def imports(module: str, nodes: Iterator[ast.AST]) -> set[str]:
    """The package's own modules that are imported, itself aside."""
    found = {target for node in nodes for target in targets(module, node)}
    return found - {module, ""}


def targets(module: str, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from own(alias.name)
    elif isinstance(node, ast.ImportFrom):
        is_package = PATHS[module].name == "__init__.py"
        name = f"{PACKAGE.name}.{module}".rstrip(".")
        package = name if is_package else name.rpartition(".")[0]
        base = resolve_name("." * node.level + (node.module or ""), package)
        for alias in node.names:
            submodule = f"{base}.{alias.name}".removeprefix(f"{PACKAGE.name}.")
            yield from [submodule] if submodule in PATHS else own(base)


def own(name: str) -> list[str]:
    package, _, module = name.partition(".")
    return [module] if package == PACKAGE.name else []


def outside_functions(tree: ast.AST, *, types: bool = True) -> Iterator[ast.AST]:
    """Without ``types``, what only the type checker runs is left out."""
    for node in ast.iter_child_nodes(tree):
        is_for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not isinstance(node, Function) and (types or not is_for_types):
            yield node
            yield from outside_functions(node, types=types)


def inside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield from ast.walk(node)


GRAPH = {name: imports(name, outside_functions(tree)) for name, tree in TREES.items()}


def test_imports_point_down() -> None:
    edges = [(module, target) for module, targets in GRAPH.items() for target in targets]
    assert [edge for edge in edges if layer(edge[1]) > layer(edge[0])] == []


def test_imports_make_no_circle_when_they_run() -> None:
    trees = TREES.items()
    run = {name: imports(name, outside_functions(tree, types=False)) for name, tree in trees}
    TopologicalSorter(run).prepare()


def test_the_graph_knows_the_imports_there_are() -> None:
    assert {"api.bearer", "oauth.transport", "conf"} <= GRAPH["session"]
    assert {"flows._bulk.run_result", "models"} <= GRAPH["management.bulk_command"]
    assert {"flows", "management.bulk_command"} <= GRAPH["management.commands.refresh_ilert_tokens"]


def test_only_the_app_config_and_the_pytest_plugin_wait_with_an_import() -> None:
    waiting = {name: imports(name, inside_functions(tree)) for name, tree in TREES.items()}
    assert {name: found for name, found in waiting.items() if found} == {
        "apps": {"flows._disconnect", "flows._history", "internal.authorization_request"},
        "exceptions": {"_http_exceptions"},
        "pytest_plugin": {"testing._fake_ilert"},
    }


def test_neither_the_client_nor_what_it_stands_on_imports_django() -> None:
    seen, waiting = set[str](), {name for name in PATHS if name.startswith("oauth")}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        waiting |= GRAPH[module] - seen
    foreign = {
        name.partition(".")[0]
        for module in seen
        for node in ast.walk(TREES[module])
        for name in foreign_imports(node)
    }
    assert "requests" in foreign
    assert "django" not in foreign


def foreign_imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module or ""]
    return []


def test_no_function_is_longer_than_a_screen() -> None:
    functions = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, Function)
    }
    assert {name: n for name, n in functions.items() if n > LONGEST_FUNCTION} == {}
