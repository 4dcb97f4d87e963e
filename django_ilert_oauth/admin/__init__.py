"""A panel to look after accounts with: read-only, without tokens."""

from .model_admin import ConnectedAccountAdmin
from .revocations import PendingRevocationAdmin

__all__ = ["ConnectedAccountAdmin", "PendingRevocationAdmin"]
