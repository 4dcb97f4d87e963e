"""For the tests of sites that use the app: accounts, and an ilert that lives in memory.

No test library is needed. pytest finds a fixture ``fake_ilert`` that needs no import.
"""

from ._fake_ilert import FakeIlert, SentRequest, connected_account, fake_ilert

__all__ = ["FakeIlert", "SentRequest", "connected_account", "fake_ilert"]
