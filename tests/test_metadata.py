"""What the package says of itself, beside what is tested and shipped."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

import django_ilert_oauth
from tests.support import docs
from tests.support.oldest_releases import floors

ROOT = Path(__file__).parents[1]
PACKAGE = Path(django_ilert_oauth.__file__).parent


def config(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / name)
    return parser


METADATA = config("setup.cfg")["metadata"]
CLASSIFIERS = METADATA["classifiers"].split("\n")
TOX = (ROOT / "tox.ini").read_text()
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text()


def classified(prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in CLASSIFIERS if name.startswith(prefix)]


def test_the_version_is_written_in_one_place() -> None:
    assert METADATA["version"] == "attr: django_ilert_oauth.__version__"
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text()).get("project", {})
    texts = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    version = f'"{django_ilert_oauth.__version__}"'
    assert [path.name for path, text in texts.items() if version in text] == ["__init__.py"]


def test_the_changelog_begins_with_this_version() -> None:
    titles = re.findall(r"^(\S+) \(([^)]+)\)\n=+$", (ROOT / "CHANGELOG.rst").read_text(), re.M)
    version, date = titles[0]
    assert version == django_ilert_oauth.__version__
    assert date == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", date)


def test_the_classifiers_name_the_versions_that_are_tested() -> None:
    djangos = sorted(set(re.findall(r"^    django\d\d: Django>=(\d\.\d)", TOX, re.M)))
    assert classified("Framework :: Django :: ") == djangos
    pythons = re.findall(r"py3(?:(\d\d)|\{([\d,]+)\})-", TOX)
    minors = {minor for pair in pythons for minor in ",".join(pair).split(",") if minor}
    names = [f"3.{minor}" for minor in sorted(minors)]
    assert classified("Programming Language :: Python :: ") == ["3", "3 :: Only", *names]
    assert config("setup.cfg")["options"]["python_requires"] == f">={names[0]}"


def test_the_classifiers_name_the_languages_that_are_shipped_compiled() -> None:
    languages = {"de": "German"}
    shipped = sorted(path.parent.parent.name for path in PACKAGE.glob("locale/*/*/django.po"))
    assert classified("Natural Language :: ") == ["English", *map(languages.get, shipped)]
    sources = PACKAGE.glob("locale/*/*/*.po")
    assert [path for path in sources if not path.with_suffix(".mo").is_file()] == []


def test_tools_are_of_one_release() -> None:
    assert len(set(re.findall(r"ruff==([\d.]+)", TOX + HOOKS))) == 1
    for tool in ("django-upgrade", "djade", "typos"):
        [release] = re.findall(rf"^    {tool}==([\d.]+)", TOX, re.MULTILINE)
        [revision] = re.findall(rf"/{tool}(?:-pre-commit)?\n    rev: v?([\d.]+)", HOOKS)
        assert release == revision


def test_hooks_and_actions_are_pinned() -> None:
    revisions = re.findall(r"rev: (.+)", HOOKS)
    workflows = "".join(path.read_text() for path in ROOT.glob(".github/workflows/*.yml"))
    actions = re.findall(r"uses: (\S+)", workflows)
    assert revisions
    assert actions
    assert [it for it in revisions if not re.fullmatch(r"v?\d+(\.\d+)+", it)] == []
    assert [it for it in actions if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", it)] == []


def test_hooks_write_for_the_oldest_django() -> None:
    oldest = classified("Framework :: Django :: ")[0]
    targets = re.findall(r"--target-version, \"([\d.]+)\"", HOOKS)
    assert targets
    assert set(targets) == {oldest}


OLDEST = [
    (package.split()[0], version)
    for package, cells in docs.rows("Package").items()
    for version in cells[0].split(", ")
]


def test_the_reference_names_the_oldest_release_of_each_requirement() -> None:
    assert dict(reversed(OLDEST)) == floors()


def test_the_release_before_the_oldest_is_not_installed() -> None:
    text = (ROOT / "setup.cfg").read_text()
    for package, version in OLDEST:
        [allowed, *_others] = re.findall(rf"^ +{package}(\S+)$", text, re.MULTILINE)
        release = Version(version)
        major, minor, patch = release.major, release.minor, release.micro
        before = f"{major}.{minor}.{patch - 1}" if patch else f"{major}.{minor - 1}.99"
        assert version in SpecifierSet(allowed)
        assert before not in SpecifierSet(allowed)
