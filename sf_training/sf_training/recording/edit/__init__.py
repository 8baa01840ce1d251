"""Relabel, trim, split and merge finished episodes."""
