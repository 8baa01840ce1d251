"""Policies in other processes: clients of other servers, and a server of checkpoints."""
