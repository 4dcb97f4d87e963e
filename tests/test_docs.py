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
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import django
import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command, get_commands, load_command_class
from django.core.management.base import BaseCommand, CommandParser
from django.dispatch import Signal
from django.template import Template
from django.urls import NoReverseMatch, reverse
from docutils import nodes

import django_ilert_oauth
import run as example
from django_ilert_oauth import checks, exceptions, flows, signals
from django_ilert_oauth.conf import NAMES, conf
from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.internal import crypto, scopes
from django_ilert_oauth.internal.setting_values import PREFIX
from django_ilert_oauth.models import AccountEvent, ConnectedAccount, LastRun, Reason, Status
from django_ilert_oauth.oauth.client import CURRENT_USER_PATH
from django_ilert_oauth.templatetags.ilert_oauth import register
from django_ilert_oauth.testing._rest_rules import RESOURCES
from django_ilert_oauth.urls import urlpatterns
from ilert_standin import Fault, StandIn
from ilert_standin.__main__ import parser as standin_parser
from tests.support import docs

ROOT = docs.ROOT
PACKAGE = Path(django_ilert_oauth.__file__).parent
TEXT = docs.all_text()
COMMANDS = sorted(path.stem for path in PACKAGE.glob("management/commands/[!_]*.py"))


def test_pages_are_read_as_they_were_meant_and_readme_without_a_word_of_warning() -> None:
    for page in docs.PAGES:
        assert docs.document(page, halt_level=1 if page == docs.README else 2)[0].astext()


def test_no_row_of_a_table_is_the_rest_of_another() -> None:
    """In a simple table the first cell has one line: more of it would be a row of its own."""
    rows = {page: docs.all_rows(page) for page in docs.PAGES}
    assert [(page, row) for page in rows for row in rows[page] if "" in row[1:]] == []


def test_readme_is_short() -> None:
    assert len(docs.text(docs.README).splitlines()) <= 200


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
    tree = ast.parse(Path(checks.__file__).read_text())
    assert set(described) == check_ids(tree)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    called = {call_name(node) for node in ast.walk(functions[checks.check_deployment.__name__])}
    deployment = set().union(*(check_ids(functions[name]) for name in called & set(functions)))
    told = {check for check, (meaning,) in described.items() if "(--deploy)" in meaning}
    assert told == deployment


def test_checks_are_numbered_by_kind_and_without_a_gap() -> None:
    tree = ast.parse(Path(checks.__file__).read_text())
    for letter, kind in {"E": "Error", "W": "Warning"}.items():
        calls = [node for node in ast.walk(tree) if call_name(node) == kind]
        made = set().union(*map(check_ids, calls))
        numbers = range(1, len(made) + 1)
        assert sorted(made) == [f"ilert_oauth.{letter}{number:03}" for number in numbers]


def check_ids(tree: ast.AST) -> set[str]:
    constants = [str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return {text for text in constants if re.fullmatch(r"ilert_oauth\.\w\d+", text)}


def call_name(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def parser_of(name: str) -> CommandParser:
    return load_command_class(get_commands()[name], name).create_parser("manage.py", name)


def own_options(name: str) -> set[str]:
    inherited = BaseCommand().create_parser("manage.py", name)
    return options(parser_of(name)) - options(inherited)


def options(parser: ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def test_each_option_of_a_command_is_in_a_table_below_its_name() -> None:
    for name in COMMANDS:
        described = docs.options().get(name, [])
        assert sorted(option.split()[0] for option in described) == sorted(own_options(name)), name


def test_an_option_is_shown_with_its_default() -> None:
    for name in COMMANDS:
        parser = parser_of(name)
        actions = {option: it for it in parser._actions for option in it.option_strings}
        for shown in docs.options().get(name, []):
            option, _, value = shown.partition(" ")
            if value and not value.isupper():
                action = actions[option]
                given = vars(parser.parse_args([option, value]))[action.dest]
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


def test_each_field_of_a_model_is_described_in_order() -> None:
    for model in apps.get_app_config("ilert_oauth").get_models():
        described = docs.rows(f"Field of {model.__name__}")
        assert list(described) == [field.name for field in model._meta.concrete_fields]


def test_each_value_of_a_choice_is_described() -> None:
    for choices in (Status, Reason):
        described = docs.rows(f"Value of {choices.__name__}")
        names = {choice.value: choice.name for choice in choices}
        assert {value: row[0] for value, row in described.items()} == names
    assert list(docs.rows("event.kind")) == AccountEvent.Kind.values
    [by], [run] = docs.rows("Field of AccountEvent")["by"], docs.rows("Field of LastRun")["kind"]
    assert [value for value in AccountEvent.By.values if value not in by] == []
    assert [value for value in LastRun.Kind.values if value not in run] == []


def test_each_template_and_tag_is_described() -> None:
    folder = PACKAGE / "templates"
    paths = [*folder.glob("ilert_oauth/[!_]*.html"), *folder.glob("ilert_oauth/*/*")]
    complete = {str(path.relative_to(folder)) for path in paths}
    assert set(docs.rows("Template")) == complete
    assert set(docs.rows("Tag")) == set(register.tags)


# Names anywhere


def test_a_dotted_name_leads_somewhere() -> None:
    for name in named(r"django_ilert_oauth(?:\.\w+)+") - {crypto._INFO.decode()}:
        assert pkgutil.resolve_name(name)


def named(pattern: str) -> set[str]:
    return set(re.findall(pattern, TEXT))


def test_settings_commands_and_extras_that_are_named_exist() -> None:
    assert named(rf"{PREFIX}[A-Z_]*[A-Z]") <= set(NAMES)
    assert named(r"manage\.py (\w+)") <= set(get_commands())
    assert named(r"django-ilert-oauth\[(\w+)\]") <= set(setup_cfg()["options.extras_require"])


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_a_page_that_is_named_exists() -> None:
    with pytest.raises(NoReverseMatch):
        reverse("ilert_oauth:nowhere")
    of_an_account = {"ilert_oauth:disconnect", "ilert_oauth:remove"}
    for name in named(r"ilert_oauth:\w+"):
        assert reverse(name, args=[1] if name in of_an_account else [])


def test_a_file_that_is_named_exists() -> None:
    for name in named(r"\bilert_oauth/\w+\.\w+"):
        assert (PACKAGE / ("templates" if name.endswith(".html") else "static") / name).is_file()
    paths = named(r"(?<![\w-])(?:tests|docs|django_ilert_oauth)/[\w/.-]+\w")
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_an_option_that_is_named_exists() -> None:
    known = options(example._parser()) | options(parser_of("check"))
    known = known.union(*map(own_options, COMMANDS))
    style = (PACKAGE / "static" / "ilert_oauth" / "style.css").read_text()
    named_options = {literal for literal in docs.literals() if literal.startswith("--")}
    unknown = {literal for literal in named_options if literal.split()[0] not in known}
    assert [literal for literal in unknown if f"{literal}:" not in style] == []


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


def test_an_environment_of_tox_that_is_named_exists() -> None:
    assert named(r"tox\s+run\s+-e\s+([\w-]+)") <= environments()


def test_the_pairs_of_versions_are_those_that_are_tested() -> None:
    tested = {name for name in environments() if re.fullmatch(r"py3\d+-django\d+", name)}
    for page in (docs.README, "docs/reference/requirements"):
        told = docs.document(page).astext()
        assert tested == {
            f"py{python}-django{django}".replace(".", "")
            for pythons, djangos in re.findall(r"Python\s([^;]*?) with Django ([\d., or]+)", told)
            for python in re.findall(r"3\.\d+", pythons)
            for django in re.findall(r"\d\.\d", djangos)
        }


def test_the_requirements_are_those_that_are_installed() -> None:
    told = docs.document("docs/reference/requirements")
    required = setup_cfg()["options"]["install_requires"]
    installed = set(re.findall(r"^[\w-]+", required, re.MULTILINE))
    [sentence] = [node for node in told.findall(nodes.paragraph) if "it needs" in node.astext()]
    assert {node.astext() for node in sentence.findall(nodes.literal)} == installed - {"Django"}


SITE = "/srv/mysite"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """What the guides say is in ``/srv/mysite``, with a database that has the tables."""
    variables = [
        "DJANGO_SETTINGS_MODULE=tests.settings",
        "DATABASE_URL=sqlite:///:memory:",
        f"PYTHONPATH={ROOT}:{ROOT / 'example_project'}",
    ]
    (tmp_path / "ilert.env").write_text("".join(f"export {it}\n" for it in variables))
    (tmp_path / "systemd.env").write_text("\n".join(variables))
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
    return tmp_path


def run_in(site: Path, line: str, **environment: str) -> tuple[int, str, str]:
    result = subprocess.run(
        ["/bin/sh", "-c", line.replace(SITE, str(site))],
        cwd=site,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout, result.stderr


def test_lines_for_cron_run_as_printed_and_mail_nothing(site: Path) -> None:
    """By cron's shell and with its environment; only the folder is another."""
    lines = re.findall(r"^ +[*/\d]+(?: [*\d]+){4}  (.+)$", TEXT, re.MULTILINE)
    assert lines
    assert {line: run_in(site, line) for line in lines} == dict.fromkeys(lines, (0, "", ""))


FRESH = "docs/guides/keep-tokens-fresh"
NOTHING_DUE = "0 refreshed, 0 failed, 0 skipped, 0 grants revoked, 0 revocations pending, 0 "


def test_the_units_of_systemd_run_the_command_as_printed(site: Path) -> None:
    units = configparser.ConfigParser(interpolation=None)
    units.optionxform = str  # type: ignore[assignment]
    units.read_string("\n".join(docs.blocks("ini", FRESH)))
    service = units["Service"]
    assert (service["WorkingDirectory"], units["Timer"]["OnCalendar"]) == (SITE, "*:0/10")
    variables = (site / Path(service["EnvironmentFile"]).relative_to(SITE)).read_text()
    environment = dict(line.split("=", 1) for line in variables.splitlines())
    code, out, error = run_in(site, service["ExecStart"], **environment)
    assert (code, out.partition("revocations given up")[0], error) == (0, NOTHING_DUE, "")


def test_the_job_of_kubernetes_runs_the_command_as_often() -> None:
    yaml: Any = pytest.importorskip("yaml")
    [job] = map(yaml.safe_load, docs.blocks("yaml", FRESH))
    assert (job["kind"], job["spec"]["schedule"]) == ("CronJob", "*/10 * * * *")
    [container] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "manage.py", "refresh_ilert_tokens"]


PROGRAMS = r"(?:manage\.py (\w+)|-m (ilert_standin))"


def test_a_line_for_the_shell_takes_options_that_exist() -> None:
    for line in docs.shell_lines():
        for command, standin in re.findall(PROGRAMS, line):
            parser = standin_parser() if standin else parser_of(command)
            rest = line.partition(command or standin)[2]
            assert set(re.findall(r"(?<=\s)(--?[a-z][\w-]*)", rest)) <= options(parser), line


# Code and links


#: Of a module of Django that its oldest version lacks.
NEWER = {"django.tasks": (6, 0)}


def test_python_can_be_read_and_finds_what_it_imports() -> None:
    for node in (node for code in docs.blocks("python") for node in ast.walk(ast.parse(code))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("django"):
            if NEWER.get(str(node.module), ()) > django.VERSION:
                continue
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_templates_and_data_can_be_read() -> None:
    assert all(Template(code).nodelist for code in docs.blocks("html+django"))
    assert all(map(json.loads, docs.blocks("json")))


def test_the_variables_of_a_style_sheet_are_those_of_the_app() -> None:
    style = (PACKAGE / "static" / "ilert_oauth" / "style.css").read_text()
    used = set(re.findall(r"--[\w-]+(?=:)", "".join(docs.blocks("css"))))
    assert used
    assert used <= set(re.findall(r"--[\w-]+(?=:)", style))


def test_links_of_readme_lead_somewhere() -> None:
    document = docs.document(docs.README)
    for node in document.findall(nodes.reference):
        assert "refuri" in node or node["refid"] in document.ids
    for place in docs.places_of_readme():
        assert urlsplit(place).hostname or (ROOT / place).is_file(), place
