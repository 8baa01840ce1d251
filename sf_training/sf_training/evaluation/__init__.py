"""Evaluation on recorded episodes, and a server for LIBERO."""
