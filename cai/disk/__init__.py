"""Files and folders of ours: written at once, read, locked and hashed."""
