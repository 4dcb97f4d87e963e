"""What the app keeps in the database.

Models hold data and derive values from it; ``flows`` do what is done to an account.
"""

from .account import ConnectedAccount, configured_client_id
from .choices import Reason, Status
from .queryset import ConnectedAccountQuerySet
from .records import AccountEvent, AuthorizationRequest, LastRun, PendingRevocation

__all__ = [
    "AccountEvent",
    "AuthorizationRequest",
    "ConnectedAccount",
    "ConnectedAccountQuerySet",
    "LastRun",
    "PendingRevocation",
    "Reason",
    "Status",
    "configured_client_id",
]
