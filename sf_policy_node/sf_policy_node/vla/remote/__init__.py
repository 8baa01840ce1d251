"""Policies in other processes: clients of openpi's and OpenVLA-OFT's servers, and a server of
checkpoints.
"""
