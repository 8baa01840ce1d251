"""Drafts a contract for a new robot from its URDF and a live graph."""
