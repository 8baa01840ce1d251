"""Compare a contract with the running graph before the arm moves: ``python3 -m sf_bringup.doctor
robot:=…``.
"""
