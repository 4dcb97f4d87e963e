"""Nothing of the package and of the example site stays untranslated.

To refresh a catalogue, in the folder ``django_ilert_oauth``, with GNU gettext installed::

    python -m django makemessages -l de --add-location file --no-wrap --no-obsolete
    python -m django compilemessages -l de
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from babel.messages import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from django.test import Client
from django.utils import timezone, translation
from django.utils.text import capfirst
from django.utils.translation.template import templatize

import django_ilert_oauth
from django_ilert_oauth.error_messages import DECLINED
from django_ilert_oauth.internal import scopes
from django_ilert_oauth.models import ConnectedAccount
from tests.conftest import AccountFactory
from tests.support.html_page import Page

PACKAGE = Path(django_ilert_oauth.__file__).parent
EXAMPLE = PACKAGE.parent / "example_project/example_site"
CATALOGUES = [
    path
    for folder in (PACKAGE, EXAMPLE)
    for path in sorted(folder.glob("locale/*/LC_MESSAGES/django.po"))
]
LAZY = {f"{name}_lazy": arguments for name, arguments in DEFAULT_KEYWORDS.items()}
Forms = tuple[str, ...]
SUFFIXES = {".py", ".html", ".txt"}


def wanted(sources: Path) -> Catalog:
    """All that the sources want translated."""
    catalogue = Catalog()
    for path in sources.rglob("*"):
        if path.suffix in SUFFIXES:
            add_messages(catalogue, path.read_text(), is_template=path.suffix != ".py")
    return catalogue


def add_messages(catalogue: Catalog, source: str, *, is_template: bool) -> None:
    # Django's own tool turns templates into calls; brackets make their indentation meaningless.
    code = f"({templatize(source)})" if is_template else source
    found = extract("python", BytesIO(code.encode()), {**DEFAULT_KEYWORDS, **LAZY})
    for _line, message, _comments, context in found:
        catalogue.add(message, context=context)


def texts(catalogue: Catalog) -> dict[tuple[str | None, Forms], Forms]:
    messages = [message for message in catalogue if message.id]
    return {(message.context, forms(message.id)): forms(message.string) for message in messages}


def forms(text: str | Sequence[str] | None) -> Forms:
    """One text, or that for one thing and that for many."""
    return (text,) if isinstance(text, str) else tuple(text or ())


@pytest.fixture(params=CATALOGUES, ids=lambda path: "-".join(path.parts[-5:-2:2]))
def path(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def translated(path: Path) -> Catalog:
    with path.open("rb") as file:
        return read_po(file, locale=path.parts[-3], abort_invalid=True)


def test_python_and_templates_are_searched_for_messages() -> None:
    catalogue = Catalog()
    code = '_("one")\ngettext_lazy("t" "wo")\nngettext_lazy("a", "as", "n")\npgettext("c", "in")'
    add_messages(catalogue, code, is_template=False)
    template = """
      {% translate "simple" %}
        {% blocktranslate with x=y %}has {{ x }}{% endblocktranslate %}
    {% blocktranslate count n=n %}{{ n }} it{% plural %}{{ n }} its{% endblocktranslate %}
    """
    add_messages(catalogue, template, is_template=True)
    assert set(texts(catalogue)) == {
        (None, ("one",)),
        (None, ("two",)),
        (None, ("a", "as")),
        ("c", ("in",)),
        (None, ("simple",)),
        (None, ("has %(x)s",)),
        (None, ("%(n)s it", "%(n)s its")),
    }


def test_the_catalogue_has_what_the_sources_have(path: Path, translated: Catalog) -> None:
    in_sources, in_catalogue = set(texts(wanted(path.parents[3]))), set(texts(translated))
    assert in_sources - in_catalogue == set(), "run makemessages, then translate"
    assert in_catalogue - in_sources == set(), "run makemessages"


def test_each_message_is_translated(translated: Catalog) -> None:
    assert [message for message, text in texts(translated).items() if not all(text)] == []


def test_no_translation_is_fuzzy_or_left_over(translated: Catalog) -> None:
    assert [message.id for message in translated if message.id and message.fuzzy] == []
    assert not translated.fuzzy
    assert list(translated.obsolete) == []


def test_each_translation_has_the_placeholders_of_its_message(translated: Catalog) -> None:
    assert [(message.id, errors) for message, errors in translated.check()] == []
    for (_context, message), text in texts(translated).items():
        assert placeholders(message) == placeholders(text), message


def placeholders(texts: Forms) -> list[set[str]]:
    """Of ``str.format``; Babel looks after those with a percent sign."""
    return [{name for _, name, _, _ in Formatter().parse(text) if name} for text in texts]


def test_the_compiled_catalogue_is_that_of_the_text(path: Path, translated: Catalog) -> None:
    with path.with_suffix(".mo").open("rb") as file:
        compiled = read_mo(file)
    assert texts(compiled) == texts(translated), "run compilemessages"
    assert compiled.plural_expr == translated.plural_expr


# Seen


def test_the_pages_speak_german(
    browser: Client, make_account: AccountFactory, settings: Any
) -> None:
    settings.LANGUAGE_CODE = "de"
    make_account(granted_scope="profile source:w wildcard:d", connected_at=timezone.now())
    page = Page.of(browser.get("/ilert/"))
    assert page.one("html").attributes["lang"] == "de"
    assert page.one("h1").text == "Ihre ilert-Konten"
    assert page.one("span", "ilert-badge").text == "verbunden"
    assert page.texts("li") == [
        "Ihr Profil ansehen",
        "Alarmquellen ansehen, anlegen und ändern",
        "Alles in ilert ansehen, anlegen, ändern und löschen",
    ]
    assert page.one("time").text == "gerade eben"
    assert page.texts("button") == ["Neu verbinden"]


def test_failures_speak_german(browser: Client, settings: Any) -> None:
    settings.LANGUAGE_CODE = "de"
    page = Page.of(browser.get("/ilert/callback/", {"state": "unknown"}, follow=True))
    message = page.one("p", "ilert-error").text
    assert message.startswith("Dieser Verbindungsversuch ist beendet: Er dauerte länger")
    assert " Kennung: " in message


def test_words_follow_the_language_of_each_request() -> None:
    [sentence] = scopes.describe("source")
    with translation.override("de"):
        assert str(sentence) == "Alarmquellen ansehen"
        assert str(DECLINED).startswith("Bei ilert wurde der Zugriff abgelehnt")
        assert ConnectedAccount._meta.verbose_name_plural == "ilert-Konten"
    assert str(sentence) == "See alert sources"


def test_the_brand_is_spelt_as_it_spells_itself(translated: Catalog) -> None:
    pairs = texts(translated).items()
    shown = [text for (_, message), string in pairs for text in (*message, *string)]
    for language in ("en", "de"):
        with translation.override(language):
            shown += [capfirst(str(field.verbose_name)) for field in ConnectedAccount._meta.fields]
    misspelt = re.compile(r"\b(?!ilert\b)(?i:ilert)\b")
    assert [text for text in shown if misspelt.search(text)] == []
