"""Draft a contract for a new robot from its URDF and a running graph."""
