"""What all commands have in common."""

from __future__ import annotations

import json
import logging
import re
from io import StringIO

import pytest
from django.core.management import call_command, execute_from_command_line

from django_ilert_oauth.models import ConnectedAccount
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory, spoil
from tests.support import docs

COMMANDS = [
    ["refresh_ilert_tokens", "--force", "--within=2h"],
    ["check_ilert_accounts"],
    ["rotate_ilert_keys"],
    ["disconnect_ilert_accounts", "--all", "--no-input"],
    ["ilert_health", "--max-overdue=0s"],
]
REFERENCE = "docs/reference/commands"
LISTING = ["refresh_ilert_tokens", "check_ilert_accounts", "disconnect_ilert_accounts"]


@pytest.fixture
def failing(account: ConnectedAccount, make_account: AccountFactory, ilert: StandIn) -> None:
    """Accounts with which each command fails."""
    spoil(account)
    make_account(username="ada", access_token_expires_at=account.connected_at)
    for endpoint in ("token", "token_info", "revoke"):
        ilert.add_fault(endpoint, Fault(503), times=None)


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
@pytest.mark.django_db(transaction=True)
def test_verbosity_0_is_silent_although_the_command_fails_and_no_log_is_set_up(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = logging.getLogger("django_ilert_oauth")
    for logger in (logging.getLogger(), own):
        monkeypatch.setattr(logger, "handlers", [])
    with pytest.raises(SystemExit) as raised:
        execute_from_command_line(["manage.py", *command, "-v", "0"])
    written = capsys.readouterr()
    assert (raised.value.code != 0, written.out, written.err) == (True, "", "")
    assert own.handlers == []


@pytest.mark.parametrize("name", LISTING)
def test_a_dry_run_lists_the_same_as_text_and_as_json_and_does_nothing(
    make_account: AccountFactory, ilert: StandIn, name: str
) -> None:
    account = make_account(access_token_expires_at=None)
    before = ConnectedAccount.objects.values().get()
    choice = ["--all"] if name == "disconnect_ilert_accounts" else []
    [listed, text] = run(name, "--dry-run", *choice).splitlines()
    told = json.loads(run(name, "--dry-run", "--json", *choice))
    assert {f"``{key}``" for key in told} <= set(re.findall("``[a-z_]+``", docs.text(REFERENCE)))
    [(words, count), (_, accounts)] = told.items()
    assert listed == f"{account.pk}  grace @ acme"
    assert text == f"{count} {words.replace('_', ' ')}; nothing was done."
    assert accounts == {str(account.pk): "grace @ acme"}
    assert (ConnectedAccount.objects.values().get(), ilert.requests) == (before, [])


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()
