"""Connected ilert accounts for Django sites."""

__version__ = "0.1.0"
