"""A panel to look after accounts with: read-only, without tokens."""

from .accounts import ConnectedAccountAdmin

__all__ = ["ConnectedAccountAdmin"]
