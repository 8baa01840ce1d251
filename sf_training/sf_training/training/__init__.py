"""Training: settings, students, the loop and its reports, and the commands around them."""
