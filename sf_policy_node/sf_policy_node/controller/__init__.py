"""The controller behind the executor: what it does with a trajectory, what it must be set to, and
whether it is there.
"""
