"""Addresses of policy servers."""

from __future__ import annotations

from urllib.parse import urlsplit

SCHEMES = {"openpi": 8000, "oft": 8777}  # scheme: port where the address names none


def is_remote(policy: str) -> bool:
    """Return whether a policy's name is the address of a server instead of a checkpoint."""
    return urlsplit(policy).scheme in SCHEMES
