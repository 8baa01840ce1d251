"""Run the recorder between and within episodes: state, stream health, status."""
