"""Models on disk: found, opened, hashed, converted and merged."""
