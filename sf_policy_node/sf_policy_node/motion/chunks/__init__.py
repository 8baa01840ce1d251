"""From a policy's chunk to a motion: what is acceptable, where it leads, how it joins the one under
way.
"""
