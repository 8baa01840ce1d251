"""Recover interrupted recordings and damaged files, and verify finished episodes."""
