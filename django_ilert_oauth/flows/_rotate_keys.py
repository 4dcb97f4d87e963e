"""Moving stored tokens to the first of the configured keys."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from django_ilert_oauth.exceptions import TokenDecryptionError
from django_ilert_oauth.internal import crypto
from django_ilert_oauth.internal.rows import account_rows, database, in_pages, pending_revocations
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation
from django_ilert_oauth.oauth.transport import clock

from ._lease import lease_seconds
from ._revocation import open_revocations, reopen_readable

#: Seconds between two attempts at the rows that are being refreshed.
PAUSE = 0.5

Row = ConnectedAccount | PendingRevocation


@dataclass
class RotationResult:
    """The result of ``rotate_keys``, which counts rows.

    ``rotated`` were re-encrypted, ``current`` already used the first key, and ``on_old_keys`` still
    use another. ``unreadable`` names those that no configured key decrypts.
    """

    rotated: int = 0
    current: int = 0
    on_old_keys: int = 0
    unreadable: list[str] = field(default_factory=list)


def rotate_keys(*, dry_run: bool = False) -> RotationResult:
    """Re-encrypts every stored token with the first key of ``ILERT_OAUTH_ENCRYPTION_KEYS``.

    You can stop it, start it again, and run it while tokens are refreshed: a token is replaced only
    if it is still the stored one (compare and swap), and the run waits for accounts that are being
    refreshed. With ``dry_run`` it only counts.
    Revocations that were given up because no key decrypted them become pending again.
    """
    if not dry_run:
        reopen_readable()
    result = RotationResult()
    busy: list[Row] = []
    stored: tuple[Any, ...] = (account_rows(), open_revocations())
    for row in chain.from_iterable(map(in_pages, stored)):
        _rotate(row, result, busy, dry_run)
    _wait_for(busy, result)
    return result


def _rotate(row: Row, result: RotationResult, busy: list[Row], dry_run: bool = False) -> None:
    old = _ciphertexts(row)
    try:
        new = {
            name: crypto.rotate(text, row.place_of(name.removesuffix("_ciphertext")))
            for name, text in old.items()
        }
    except TokenDecryptionError:
        result.unreadable.append(f"{row._meta.verbose_name} {row.pk} ({row})")
        return
    if new == old:
        result.current += 1
    elif dry_run:
        result.on_old_keys += 1
    elif _swap(row, old, new):
        result.rotated += 1
    else:
        busy.append(row)


def _ciphertexts(row: Row) -> dict[str, str]:
    names = [field.name for field in row._meta.fields if field.name.endswith("_ciphertext")]
    return {name: getattr(row, name) for name in names if getattr(row, name)}


def _swap(row: Row, old: dict[str, str], new: dict[str, str]) -> bool:
    # The response to a refresh under way is written over the ciphertext that was sent.
    is_account = isinstance(row, ConnectedAccount)
    rows: Any = account_rows().unleased() if is_account else pending_revocations()
    return bool(rows.filter(pk=row.pk, **old).update(**new))


def _wait_for(busy: list[Row], result: RotationResult) -> None:
    deadline = clock() + lease_seconds()
    while busy and clock() < deadline:
        time.sleep(PAUSE)
        still_busy: list[Row] = []
        for row in busy:
            for fresh in type(row)._default_manager.using(database()).filter(pk=row.pk):
                _rotate(fresh, result, still_busy)
        busy = still_busy
    result.on_old_keys += len(busy)
