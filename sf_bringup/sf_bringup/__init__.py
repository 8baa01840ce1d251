"""What is started and with which settings; no algorithms."""
