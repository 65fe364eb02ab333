"""What is good: principles, the files that hold them, and their checks."""
