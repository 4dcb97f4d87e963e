"""The token that ``IlertSession`` and ``IlertAuth`` send."""

from __future__ import annotations

import logging

from django_ilert_oauth import flows
from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import IlertOAuthError
from django_ilert_oauth.flows._refresh import refresh_refused
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth.secret import Secret

logger = logging.getLogger(__name__)


def is_header_value(token: Secret) -> bool:
    """Whether a header can hold it: else the error of an HTTP library would show it."""
    return token.reveal().isascii() and token.reveal().isprintable()


class Bearer:
    """An account whose token is decrypted once, and not for each request."""

    def __init__(self, account: ConnectedAccount) -> None:
        self.account = account
        self._decrypted = (("", ""), Secret())

    def token(self) -> Secret:
        decrypted, token = self._decrypted
        # The flow looks at where the account belongs, once for each address.
        stored = (self.account.api_url, self.account.access_token_ciphertext)
        if decrypted != stored or not self.account.is_fresh(conf.refresh_margin):
            token = Secret(flows.get_access_token(self.account))
            # Of no use where another thread, or a refresh, has replaced it meanwhile.
            self._decrypted = (stored, token)
        return token

    def replace(self, refused: Secret) -> bool:
        """Whether the account has another token now than the one that a 401 has refused."""
        try:
            refresh_refused(self.account, refused)
        except IlertOAuthError as error:
            logger.warning("Account %s: no new token after a 401: %s", self.account.pk, error.code)
        return self.account.access_token not in ("", refused)
