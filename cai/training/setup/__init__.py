"""What can be set, and what is settled from data and machine."""
