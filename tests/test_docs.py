"""README and docs/ beside the code: what one of them names, the other has."""

from __future__ import annotations

import ast
import configparser
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command, get_commands, load_command_class
from django.core.management.base import BaseCommand, CommandParser
from django.db.models import Model, TextChoices
from django.dispatch import Signal
from django.template.loader import get_template
from django.urls import NoReverseMatch, reverse
from docutils import nodes

import django_ilert_oauth
import run as example
from django_ilert_oauth import checks, exceptions, flows, signals
from django_ilert_oauth.conf import NAMES, conf
from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.internal import crypto, scopes
from django_ilert_oauth.internal.setting_values import PREFIX
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from django_ilert_oauth.oauth.client import CURRENT_USER_PATH
from django_ilert_oauth.templatetags.ilert_oauth import register
from django_ilert_oauth.testing._endpoints import RESOURCES
from django_ilert_oauth.urls import urlpatterns
from ilert_standin import Fault, StandIn
from ilert_standin.__main__ import parser as standin_parser
from tests.support import docs

ROOT = docs.ROOT
PACKAGE = Path(django_ilert_oauth.__file__).parent
TEXT = docs.all_text()
COMMANDS = sorted(path.stem for path in PACKAGE.glob("management/commands/[!_]*.py"))


def test_readme_renders_without_a_word_of_warning() -> None:
    assert docs.document(docs.README, halt_level=1)[0].astext() == "django_ilert_oauth"


def test_readme_is_short() -> None:
    assert len(docs.text(docs.README).splitlines()) <= 200


@pytest.mark.parametrize("page", docs.PAGES)
def test_a_page_is_read_as_it_was_meant(page: str) -> None:
    assert docs.document(page, halt_level=2)[0].astext()


# Tables


def test_each_setting_is_described_with_its_default(settings: Any) -> None:
    described = docs.rows("Setting")
    assert list(described) == NAMES
    for name in NAMES:
        if hasattr(settings, name):
            delattr(settings, name)
    defaults = {name: default(name) for name in NAMES}
    assert {name: understood(row[0]) for name, row in described.items()} == defaults


def default(name: str) -> object:
    """The exception's type where there is none."""
    try:
        return getattr(conf, name.removeprefix(PREFIX).lower())
    except ImproperlyConfigured:
        return ImproperlyConfigured


def understood(cell: str) -> object:
    """What the words of a cell with a default stand for."""
    if match := re.fullmatch(r"(\d+) (minutes|days)", cell):
        return timedelta(**{match[2]: int(match[1])})
    words = {"required": ImproperlyConfigured, "the accounts page": reverse("ilert_oauth:accounts")}
    if cell in words:
        return words[cell]
    return cell if cell.startswith("https://") else ast.literal_eval(cell)


@pytest.mark.django_db(transaction=True)
def test_each_signal_is_described_with_its_arguments(
    connect: Callable[..., Any], ilert: StandIn, sent: list[tuple[str, dict[str, Any]]]
) -> None:
    connect()
    account = ConnectedAccount.objects.get()
    flows.refresh(account, force=True)
    ilert.add_fault("token", Fault(503))
    with pytest.raises(IlertUnavailableError):
        flows.refresh(account, force=True)
    flows.refresh(account, force=True)
    flows.disconnect(account)
    described = docs.rows("Signal")
    told = {name: sorted(arguments) for name, arguments in sent}
    assert {name: sorted(row[0].split(", ")) for name, row in described.items()} == told
    assert set(told) == {name for name, it in vars(signals).items() if isinstance(it, Signal)}


def test_each_scope_is_described_with_what_it_covers() -> None:
    names = ["offline_access", *scopes._RESOURCES]
    described = docs.rows("Scope")
    assert set(described) == set(names)
    things = {name: str(thing) for name, thing in scopes._RESOURCES.items()}
    assert {name: described[name][0] for name in things} == things
    below = {name: [f"/api/{part}" for part in parts] for name, parts in parts_of_api().items()}
    special = {"offline_access": ["none"], "wildcard": ["all of them"]}
    expected = below | special | {"profile": [CURRENT_USER_PATH]}
    assert {name: row[1].split(", ") for name, row in described.items()} == expected


def parts_of_api() -> dict[str, list[str]]:
    """What a scope is for, by the scopes that the testing kit asks for."""
    parts: dict[str, list[str]] = {}
    for part, scope in RESOURCES.items():
        parts.setdefault(scope, []).append(part)
    return parts


def test_each_exception_is_described() -> None:
    assert sorted(docs.rows("Exception")) == exceptions.__all__


def test_each_check_is_described() -> None:
    described = docs.rows("Check")
    assert set(described) == set(check_ids(ast.parse(Path(checks.__file__).read_text())))
    of_deployment = {check for check, (meaning,) in described.items() if "(--deploy)" in meaning}
    assert of_deployment == set(ids_of(checks.check_deployment))


@pytest.mark.parametrize(("letter", "kind"), [("E", "Error"), ("W", "Warning")])
def test_checks_are_numbered_by_kind_and_without_a_gap(letter: str, kind: str) -> None:
    tree = ast.parse(Path(checks.__file__).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    made = {id for call in calls if named(call) == kind for id in check_ids(call)}
    numbers = range(1, len(made) + 1)
    assert sorted(made) == [f"ilert_oauth.{letter}{number:03}" for number in numbers]


def check_ids(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and re.fullmatch(r"ilert_oauth\.\w\d+", str(node.value)):
            yield str(node.value)


def ids_of(check: Callable[..., Any]) -> Iterator[str]:
    """Of the functions that a check calls."""
    tree = ast.parse(Path(checks.__file__).read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(functions[check.__name__]):
        if isinstance(node, ast.Call) and (called := functions.get(named(node))):
            yield from check_ids(called)


def named(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def parser_of(name: str) -> CommandParser:
    return load_command_class(get_commands()[name], name).create_parser("manage.py", name)


def own_options(name: str) -> set[str]:
    inherited = BaseCommand().create_parser("manage.py", name)
    return options(parser_of(name)) - options(inherited)


def options(parser: ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_of_a_command_is_in_a_table_below_its_name(name: str) -> None:
    described = docs.options().get(name, [])
    assert sorted(option.split()[0] for option in described) == sorted(own_options(name))


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_is_shown_with_its_default(name: str) -> None:
    parser = parser_of(name)
    for action in parser._actions:
        for shown in docs.options().get(name, []):
            option, _, value = shown.partition(" ")
            if option in action.option_strings and value and not value.isupper():
                [given] = [vars(parser.parse_args([option, value]))[action.dest]]
                assert given == (action.default or setting_in(action.help or "")), shown


def setting_in(help_text: str) -> object:
    [name] = re.findall(rf"default: {PREFIX}(\w+)", help_text)
    return getattr(conf, name.lower())


def test_each_page_is_described() -> None:
    names = {f"ilert_oauth:{pattern.name}" for pattern in urlpatterns}
    assert set(docs.rows("Name")) == names


@pytest.mark.django_db
@pytest.mark.parametrize("name", [name for name in COMMANDS if "--json" in own_options(name)])
def test_each_key_of_a_commands_json_is_described(name: str) -> None:
    out = StringIO()
    choice = ["--all", "--no-input"] if name == "disconnect_ilert_accounts" else []
    call_command(name, "--json", *choice, stdout=out)
    assert set(docs.rows(f"JSON key of {name}")) == set(json.loads(out.getvalue()))


MODELS = list(apps.get_app_config("ilert_oauth").get_models())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_each_field_of_a_model_is_described_in_order(model: type[Model]) -> None:
    described = docs.rows(f"Field of {model.__name__}")
    assert list(described) == [field.name for field in model._meta.concrete_fields]


@pytest.mark.parametrize("choices", [Status, Reason])
def test_each_value_of_a_choice_is_described(choices: type[TextChoices]) -> None:
    described = docs.rows(f"Value of {choices.__name__}")
    assert {value: row[0] for value, row in described.items()} == {
        choice.value: choice.name for choice in choices
    }


def test_each_template_and_tag_is_described() -> None:
    folder = PACKAGE / "templates"
    whole = {str(path.relative_to(folder)) for path in folder.glob("ilert_oauth/[!_]*.html")}
    assert set(docs.rows("Template")) == whole
    assert set(docs.rows("Tag")) == set(register.tags)


# Names anywhere


@pytest.mark.parametrize("name", sorted(set(re.findall(r"django_ilert_oauth(?:\.\w+)+", TEXT))))
def test_a_dotted_name_leads_somewhere(name: str) -> None:
    if name == crypto._INFO.decode():
        return
    assert pkgutil.resolve_name(name)


@pytest.mark.parametrize("name", sorted(set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", TEXT))))
def test_a_setting_that_is_named_exists(name: str) -> None:
    assert name in NAMES


@pytest.mark.parametrize("name", sorted(set(re.findall(r"ilert_oauth:\w+", TEXT))))
def test_a_page_that_is_named_exists(name: str) -> None:
    with pytest.raises(NoReverseMatch):
        reverse("ilert_oauth:nowhere")
    pk = [1] if name in ("ilert_oauth:disconnect", "ilert_oauth:remove") else []
    assert reverse(name, args=pk)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\bilert_oauth/\w+\.\w+", TEXT))))
def test_a_file_that_is_named_exists(name: str) -> None:
    if name.endswith(".html"):
        assert get_template(name)
    else:
        assert (PACKAGE / "static" / name).is_file()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"manage\.py (\w+)", TEXT))))
def test_a_command_that_is_named_exists(name: str) -> None:
    assert name in get_commands()


@pytest.mark.parametrize("literal", sorted(filter(re.compile("--").match, docs.literals())))
def test_an_option_that_is_named_exists(literal: str) -> None:
    known = options(example._parser()) | options(parser_of("check"))
    for command in COMMANDS:
        known |= own_options(command)
    style = (PACKAGE / "static" / "ilert_oauth" / "style.css").read_text()
    assert literal.split()[0] in known or f"{literal}:" in style


def environments() -> set[str]:
    """Of tox.ini, with each name that braces stand for."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "tox.ini")
    labels = re.findall(r"= (.+)", config["tox"]["labels"])
    listed = re.split(r",?\s+", " ".join([config["tox"]["env_list"].strip(), *labels]))
    headings = [section.removeprefix("testenv:") for section in config.sections()]
    return {name for pattern in [*listed, *headings] for name in spelt_out(pattern)}


def spelt_out(pattern: str) -> list[str]:
    head, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    choices, _, tail = rest.partition("}")
    return [name for choice in choices.split(",") for name in spelt_out(head + choice + tail)]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"tox\s+run\s+-e\s+([\w-]+)", TEXT))))
def test_an_environment_of_tox_that_is_named_exists(name: str) -> None:
    assert name in environments()


@pytest.mark.parametrize("page", [docs.README, "docs/reference/requirements"])
def test_the_pairs_of_versions_are_those_that_are_tested(page: str) -> None:
    told = docs.document(page)
    pairs = set()
    for pythons, djangos in re.findall(r"Python\s([^;]*?) with Django ([\d., or]+)", told.astext()):
        for python in re.findall(r"3\.\d+", pythons):
            for django in re.findall(r"\d\.\d", djangos):
                pairs.add(f"py{python}-django{django}".replace(".", ""))
    assert pairs == {name for name in environments() if re.fullmatch(r"py3\d+-django\d+", name)}


def test_the_requirements_are_those_that_are_installed() -> None:
    told = docs.document("docs/reference/requirements")
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    installed = set(re.findall(r"^[\w-]+", config["options"]["install_requires"], re.MULTILINE))
    [sentence] = [node for node in told.findall(nodes.paragraph) if "it needs" in node.astext()]
    assert {node.astext() for node in sentence.findall(nodes.literal)} == installed - {"Django"}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"django-ilert-oauth\[(\w+)\]", TEXT))))
def test_an_extra_that_is_named_exists(name: str) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert name in config["options.extras_require"]


@pytest.mark.parametrize("line", re.findall(r"^ +[*/\d]+(?: [*\d]+){4}  (.+)$", TEXT, re.MULTILINE))
def test_a_line_for_cron_runs_as_printed_and_mails_nothing(line: str, tmp_path: Path) -> None:
    """By cron's shell and with its environment; only the folder is another."""
    (tmp_path / "ilert.env").write_text(
        "export DJANGO_SETTINGS_MODULE=tests.settings DATABASE_URL=sqlite:///:memory:\n"
        f"export PYTHONPATH={ROOT}:{ROOT / 'example_project'}\n"
    )
    (tmp_path / "manage.py").write_text(
        "import sys\n"
        "from django.core import management\n"
        "import django; django.setup()\n"
        "management.call_command('migrate', verbosity=0)\n"
        "management.execute_from_command_line(sys.argv)\n"
    )
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o700)
    command = ["/bin/sh", "-c", line.replace("/srv/mysite", str(tmp_path))]
    result = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


PROGRAMS = r"(?:manage\.py (\w+)|-m (ilert_standin))"


@pytest.mark.parametrize(
    "line", sorted({line for line in docs.shell_lines() if re.search(PROGRAMS, line)})
)
def test_a_line_for_the_shell_takes_options_that_exist(line: str) -> None:
    for command, standin in re.findall(PROGRAMS, line):
        parser = standin_parser() if standin else parser_of(command)
        given = set(re.findall(r"(?<=\s)(--?[a-z][\w-]*)", line.partition(command or standin)[2]))
        assert given <= options(parser), (command, standin)


# Code and links


@pytest.mark.parametrize("code", docs.blocks("python"))
def test_python_can_be_read_and_finds_what_it_imports(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("django"):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_links_of_readme_lead_somewhere() -> None:
    document = docs.document(docs.README)
    for node in document.findall(nodes.reference):
        assert "refuri" in node or node["refid"] in document.ids
    for place in docs.places_of_readme():
        assert urlsplit(place).hostname or (ROOT / place).is_file(), place


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"(?<![\w-])(?:tests|docs|django_ilert_oauth)/[\w/.]+\w", TEXT)))
)
def test_a_path_of_this_repository_that_is_named_exists(name: str) -> None:
    assert (ROOT / name).exists()
