"""Teachers, projector and the alignment loss of Spatial Forcing."""
