"""The commands that serve until Ctrl-C."""
