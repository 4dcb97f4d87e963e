"""Helpers for the tests of sites that use the app: accounts, and an ilert in memory.

They need no test library. For pytest there is a fixture ``fake_ilert`` that needs no import.
"""

from ._accounts import connected_account
from ._fake_ilert import FakeIlert, fake_ilert
from ._sent_request import SentRequest

__all__ = ["FakeIlert", "SentRequest", "connected_account", "fake_ilert"]
