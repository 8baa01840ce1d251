"""Policies that another process serves: clients of openpi's and OpenVLA-OFT's servers, and a server
of our checkpoints.
"""
