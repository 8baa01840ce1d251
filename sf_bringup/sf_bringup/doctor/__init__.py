"""Compares a contract with the live graph before the arm moves: ``python3 -m sf_bringup.doctor
robot:=…``.
"""
