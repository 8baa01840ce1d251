"""Evaluation on recorded episodes: open loop, regression against an earlier checkpoint, LIBERO
server.
"""
