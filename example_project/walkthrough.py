"""The app at work, step by step, over HTTP and by its commands."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess, SubprocessError
from urllib.parse import parse_qs, urlsplit

from ilert_standin import browser as ilert_browser
from site_browser import Page, SiteBrowser, StepError

TENANT, USERNAME = "acme", "grace"
NEW_SOURCE = "Made by the example"
POLICY = "1"
NEW_SOURCE_PATH = "/alert-sources/new/"
SCHEDULES_PATH = "/schedules/"

RunCommand = Callable[..., CompletedProcess[str]]


class Walkthrough:
    """``ilert_log`` has one line for each request that the stand-in responded to."""

    def __init__(
        self,
        site_url: str,
        ilert_url: str,
        password: str,
        run_command: RunCommand,
        ilert_log: Callable[[], str],
    ) -> None:
        self._site = SiteBrowser(site_url)
        self._ilert_url = ilert_url
        self._password = password
        self._run_command = run_command
        self._ilert_log = ilert_log
        self._pk = ""

    def run(self) -> bool:
        """Whether every step held; the first that did not is the last."""
        for number, (title, step) in enumerate(self._steps().items(), start=1):
            try:
                came_back = step()
            except (StepError, LookupError, RuntimeError, OSError, SubprocessError) as error:
                print(f"{number:2}. {title}: FAILED, {_reason(error)}", flush=True)
                return False
            print(f"{number:2}. {title}: {came_back}", flush=True)
        return True

    def _steps(self) -> dict[str, Callable[[], str]]:
        return {
            "Log in": self._log_in,
            "Connect": self._connect,
            "Read /api/users/current": self._read_current_user,
            "List alert sources": self._list_alert_sources,
            "Ask for more access": self._ask_for_more,
            "Create an alert source": self._create_alert_source,
            "Ask when ilert refuses": self._ask_when_refused,
            "List schedules": self._list_schedules,
            "Expire the access token": self._expire,
            "Refresh by the command": self._refresh,
            "Revoke at the stand-in": self._revoke,
            "Notice by the command": self._notice,
            "Reconnect": self._reconnect,
            "Disconnect": self._disconnect,
        }

    def _log_in(self) -> str:
        form = self._site.open("/login/")
        home = self._site.submit(form, "/login/", username="demo", password=self._password)
        return _text(home, "greeting")

    def _connect(self) -> str:
        page = self._site.open("/ilert/connect/")
        page.require("See alert sources")
        accounts = self._through_ilert(self._site.leave(page, "/ilert/connect/"))
        self._pk = _account_on(accounts)
        self._require_refresh_tokens(1)
        return f"account {self._pk} is {USERNAME} @ {TENANT}, who gave consent at the stand-in"

    def _read_current_user(self) -> str:
        return _text(self._account_page(), "current-user")

    def _list_alert_sources(self) -> str:
        names = _alert_sources(self._account_page())
        return f"{len(names)} found: {', '.join(names)}"

    def _ask_for_more(self) -> str:
        self._consent(NEW_SOURCE_PATH, "See, create and edit alert sources")
        return "the page for it led to the connect page, and back once consent was given"

    def _create_alert_source(self) -> str:
        before = _alert_sources(self._account_page())
        form = self._site.open(NEW_SOURCE_PATH)
        page = self._site.submit(form, NEW_SOURCE_PATH, name=NEW_SOURCE, escalation_policy=POLICY)
        page.require(f"The alert source {NEW_SOURCE} was created.")
        after = _alert_sources(page)
        _require(len(after) == len(before) + 1, "the list is not one longer")
        return f"{len(after)} found: {', '.join(after)}"

    def _ask_when_refused(self) -> str:
        self._consent(SCHEDULES_PATH, "See schedules and who is on call")
        refused = self._ilert_log().count("GET /api/schedules 403\n")
        _require(refused == 1, f"ilert refused {refused} times")
        return "ilert refused the schedules; the page asked for them, and came back with them"

    def _list_schedules(self) -> str:
        texts = self._site.open(SCHEDULES_PATH).texts
        names = [text for name, text in texts.items() if name.startswith("schedule-")]
        _require(len(names) > 20, "they are one page of ilert's")
        return f"{len(names)} found, by pages of 20, which is all that ilert allows"

    def _expire(self) -> str:
        said = self._command("expire_ilert_tokens")
        _require(said.startswith("1 set back"), f"it said: {said}")
        return f"manage.py expire_ilert_tokens says: {said}"

    def _refresh(self) -> str:
        requests_before = self._token_requests()
        said = self._command("refresh_ilert_tokens")
        _require(said.startswith("1 refreshed, 0 failed"), f"it said: {said}")
        _require(self._token_requests() == requests_before + 1, "ilert was not asked once")
        page = self._account_page()
        refreshed_at, expires_at = _text(page, "refreshed-at"), _text(page, "expires-at")
        return f"{said} One token request; refreshed {refreshed_at}, access expires {expires_at}"

    def _revoke(self) -> str:
        ilert_browser.revoke(self._ilert_url, tenant=TENANT, username=USERNAME)
        self._require_refresh_tokens(0)
        self._site.open("/ilert/").require("ilert-connected")
        return "Manage applications lists no application; the site does not know yet"

    def _notice(self) -> str:
        options = ("--account", self._pk, "--force", "--mark-ended")
        said = self._command("refresh_ilert_tokens", *options, exit_code=1)
        _require("invalid_grant" in said, f"it said: {said}")
        page = self._site.open("/ilert/")
        page.require("needs reconnecting: access was revoked at ilert")
        return f"exit 1: {said} The page: needs reconnecting: access was revoked at ilert"

    def _reconnect(self) -> str:
        accounts = self._site.open("/ilert/")
        url = self._site.leave(accounts, "/ilert/connect/")
        _require(urlsplit(url).path.startswith(f"/t/{TENANT}/"), "it leads to another tenant")
        pk = _account_on(self._through_ilert(url))
        _require(pk == self._pk, f"account {pk} was made beside {self._pk}")
        person = _text(self._account_page(), "current-user")
        return f"still account {pk}, connected; ilert says: {person}"

    def _disconnect(self) -> str:
        path = f"/ilert/{self._pk}/disconnect/"
        page = self._site.submit(self._site.open(path), path)
        page.require(f"{USERNAME} @ {TENANT} is disconnected.")
        page.require("ilert-disconnected")
        self._require_refresh_tokens(0)
        return "the page says so, and no refresh token is left at the stand-in"

    @property
    def _account_path(self) -> str:
        return f"/accounts/{self._pk}/"

    def _account_page(self) -> Page:
        return self._site.open(self._account_path)

    def _consent(self, path: str, sentence: str) -> None:
        """From a page of the site that needs more, to ilert and back to it."""
        page = self._site.open(path)
        page.require(f'{sentence} <span class="ilert-badge ilert-new">new</span>')
        back = self._through_ilert(self._site.leave(page, "/ilert/connect/"))
        _require(urlsplit(back.url).path == path, "it led back to another page")
        self._require_refresh_tokens(1)

    def _through_ilert(self, authorize_url: str) -> Page:
        """Login and consent at the stand-in, and back to the site."""
        asked = parse_qs(urlsplit(authorize_url).query)
        _require(asked.get("code_challenge_method") == ["S256"], "PKCE is missing")
        callback_url = ilert_browser.authorize(
            authorize_url, tenant=TENANT, username=USERNAME, session=self._site.session
        )
        page = self._site.open(callback_url)
        page.require(f"{USERNAME} @ {TENANT} is connected.")
        return page

    def _command(self, *arguments: str, exit_code: int = 0) -> str:
        ended = self._run_command(*arguments)
        said = " ".join(ended.stdout.split())
        _require(ended.returncode == exit_code, f"exit {ended.returncode}: {said}")
        return said

    def _token_requests(self) -> int:
        return self._ilert_log().count("POST /api/developers/oauth2/token 200\n")

    def _require_refresh_tokens(self, count: int) -> None:
        page = SiteBrowser(self._ilert_url)
        path = "/manage-applications"
        shown = page.submit(page.open(path), path, account=f"{TENANT}/{USERNAME}")
        shown.require("connected once" if count else "No application.")


def _account_on(accounts: Page) -> str:
    return accounts.form("/ilert/connect/").fields["account"]


def _alert_sources(page: Page) -> list[str]:
    return [text for name, text in page.texts.items() if name.startswith("alert-source-")]


def _text(page: Page, name: str) -> str:
    text = " ".join(page.texts.get(name, "").split())
    _require(text != "", f"{urlsplit(page.url).path} shows no {name}")
    return text


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise StepError(otherwise)


def _reason(error: Exception) -> str:
    """Only the name of what others raised: their texts may show an address with its code."""
    return str(error) if isinstance(error, StepError) else type(error).__name__
