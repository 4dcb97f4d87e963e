from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from django.template import Context, Template
from django.utils.html import format_html

from django_ilert_oauth.oauth.secret import MASK, Secret

PLAIN = "hunter2"


@dataclass
class Holder:
    secret: Secret


SHOWN: dict[str, Callable[[Secret], Any]] = {
    "str": str,
    "repr": repr,
    "ascii": ascii,
    "format": format,
    "f-string": lambda secret: f"{secret} {secret!s} {secret!r} {secret:>30} {secret:.3}",
    "percent": lambda secret: "%s %r %a" % (secret, secret, secret),  # noqa: UP031
    "str.format": lambda secret: "{0} {0:x^9} {0!s:.2}".format(secret),  # noqa: UP032
    "in a list": lambda secret: f"{[secret]} {(secret,)} { ({secret: secret}) }",
    "in a dataclass": lambda secret: f"{Holder(secret)} {vars(Holder(secret))}",
    "attributes": lambda secret: {name: getattr(secret, name) for name in dir(secret)},
    "attributes, called": lambda secret: [secret.__repr__(), secret.__reduce__()],
    "a copy": copy.copy,
    "a deep copy": copy.deepcopy,
    "JSON with a fallback": lambda secret: json.dumps({"secret": secret}, default=str),
    "pickle": pickle.dumps,
    "pickled attributes": lambda secret: secret.__reduce_ex__(4),
    "HTML": lambda secret: format_html("<p>{}</p>", secret),
}
REFUSED: dict[str, Callable[[Any], object]] = {
    "slice": lambda secret: secret[:3],
    "index": lambda secret: secret[0],
    "length": len,
    "iteration": list,
    "membership": lambda secret: "h" in secret,
    "concatenation": lambda secret: "" + secret,
    "joining": lambda secret: "".join([secret]),
    "bytes": bytes,
    "vars": vars,
    "JSON": json.dumps,
    "order": lambda secret: secret < "i",
}


@pytest.mark.parametrize("text", [PLAIN, PLAIN * 100])
def test_a_secret_is_not_shown(text: str) -> None:
    shown = {way: show(Secret(text)) for way, show in SHOWN.items()}
    assert [way for way, it in shown.items() if PLAIN[:3] in f"{it!s} {it!r}"] == []


def test_the_mask_is_the_same_for_every_secret() -> None:
    for show in (str, repr, format, "{:>30}".format):
        assert show(Secret(PLAIN)) == show(Secret()) == MASK


@pytest.mark.parametrize("take", REFUSED.values(), ids=REFUSED)
def test_a_secret_is_no_string_that_could_be_taken_to_pieces(take: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError) as caught:
        take(Secret(PLAIN))
    assert PLAIN not in str(caught.value)


def test_a_template_masks_a_secret() -> None:
    template = Template("{{ secret }} {{ secret|slice:':3' }} {{ secret|length }}")
    assert PLAIN[:3] not in template.render(Context({"secret": Secret(PLAIN)}))


@pytest.mark.parametrize("text", ["", PLAIN, "tökén", "a\ud800"])
def test_a_secret_reveals_and_equals_what_it_was_made_of(text: str) -> None:
    assert Secret(text).reveal() == Secret(Secret(text)).reveal() == text
    assert Secret(text) == Secret(text) == text
    assert hash(Secret(text)) == hash(text)
    assert Secret(text) != text + "x"
    assert Secret(text) != text.encode(errors="replace")


def test_only_an_empty_secret_is_false() -> None:
    assert not Secret()
    assert Secret(PLAIN)


def test_a_pickled_secret_comes_back_empty() -> None:
    assert pickle.loads(pickle.dumps(Secret(PLAIN))) == ""  # noqa: S301


def test_a_copied_secret_reveals_the_same() -> None:
    holder = Holder(Secret(PLAIN))
    assert copy.copy(holder.secret) == copy.deepcopy(holder).secret == PLAIN


def test_nothing_can_be_hung_on_a_secret() -> None:
    with pytest.raises(AttributeError):
        Secret(PLAIN).note = ""  # type: ignore[attr-defined]
