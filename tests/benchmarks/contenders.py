"""Those that are measured, each with its rows and its run over all of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib import import_module
from itertools import count

import requests

from django_ilert_oauth import flows
from django_ilert_oauth.conf import conf
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth.client import TOKEN_PATH

from . import rows
from .token_endpoint import RESPONSE


@dataclass(frozen=True)
class Contender:
    name: str
    fill: Callable[[int], None]
    run: Callable[[int], None]


def plain(threads: int) -> Contender:
    """The limit: the same request and nothing else."""
    return Contender("plain loop", lambda count: None, partial(_plain, threads))


def ours(threads: int) -> Contender:
    return Contender(f"ours, {threads}", rows.accounts, partial(_ours, threads))


def esi() -> Contender:
    return Contender("django-esi", rows.esi_tokens, _esi)


def social() -> Contender:
    return Contender("social-auth", rows.social_auths, _social)


def _plain(threads: int, requests_wanted: int) -> None:
    form = {
        "client_id": conf.client_id,
        "client_secret": conf.client_secret[0].reveal(),
        "grant_type": "refresh_token",
        "refresh_token": RESPONSE["refresh_token"],
    }
    url = conf.api_url + TOKEN_PATH
    number = count()  # next() of it is atomic

    def work() -> None:
        with requests.Session() as session:
            while next(number) < requests_wanted:
                session.post(url, data=form, timeout=(5, 30)).json()

    with ThreadPoolExecutor(threads) as pool:
        for worker in [pool.submit(work) for _ in range(threads)]:
            worker.result()


def _ours(threads: int, _count: int) -> None:
    due = ConnectedAccount.objects.expiring(within=timedelta(minutes=15))
    flows.refresh_many(due, concurrency=threads, per_minute=0)


def _esi(_count: int) -> None:
    rows.peer_model("esi.Token").objects.all().get_expired().bulk_refresh()


def _social(_count: int) -> None:
    strategy = import_module("social_django.utils").load_strategy()
    for row in rows.peer_model("social_django.UserSocialAuth").objects.iterator():
        row.refresh_token(strategy)
