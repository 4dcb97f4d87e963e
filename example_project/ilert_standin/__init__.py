"""A stand-in for ilert: its OAuth2 pages and endpoints, and enough of its REST API to be useful."""

from .app import StandIn
from .faults import Fault
from .options import Client, Options
from .server import serve

__all__ = ["Client", "Fault", "Options", "StandIn", "serve"]
