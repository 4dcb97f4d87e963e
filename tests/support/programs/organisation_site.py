"""What becomes of an organisation's account, told as JSON: its code is the guide's."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.testing import connected_account, fake_ilert

GUARDED = "/function/it/"
Facts = dict[str, Any]


def main() -> Facts:
    call_command("migrate", run_syncdb=True, verbosity=0)
    people = {
        name: User.objects.create_user(name) for name in ("owner", "member", "admin", "stranger")
    }
    organisation = import_module("shop.models").Organisation.objects.create()
    organisation.members.set([people["owner"], people["member"], people["admin"]])
    organisation.administrators.set([people["admin"]])
    connected_account(people["owner"], scopes="source:w")
    give(people["owner"], organisation)
    facts = {"seen by": {name: seen_by(user) for name, user in people.items()}}
    facts["sources"] = sources(organisation)
    hand_over(people["owner"], people["member"], organisation)
    return facts | {"afterwards": seen_by(people["member"])}


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def give(owner: User, organisation: Any) -> None:
    form = {"account": ConnectedAccount.objects.get(user=owner).pk}
    client_of(owner).post(f"/give/{organisation.pk}/", form)
    organisation.refresh_from_db()


def seen_by(user: User) -> list[Any]:
    """What the guarded view says, and whether the account may be disconnected."""
    client, account = client_of(user), ConnectedAccount.objects.get()
    view = client.get(GUARDED)
    can_disconnect = client.get(f"/ilert/{account.pk}/disconnect/").status_code == 200
    return [view.content.decode() or view["Location"].partition("?")[0], can_disconnect]


def sources(organisation: Any) -> Any:
    task = import_module("shop.tasks").alert_sources
    with fake_ilert() as ilert:
        ilert.answer("GET", "/api/alert-sources", json=[{"id": 1}])
        return task(organisation)


def hand_over(owner: User, successor: User, organisation: Any) -> None:
    names = {"account": organisation.ilert_account, "successor": successor}
    exec(Path(os.environ["HANDOVER"]).read_text(), names)  # noqa: S102
    owner.delete()
    organisation.refresh_from_db()
    assert organisation.ilert_account.access_token


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()))
