"""Spatial Forcing: teachers, alignment loss, feature cache and depth probe."""
