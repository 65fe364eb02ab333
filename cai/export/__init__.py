"""From stored rows to training files."""
