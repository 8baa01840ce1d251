"""Turns a policy's action chunk into a joint motion: checks it, computes joint targets, and blends
it into the current motion.
"""
