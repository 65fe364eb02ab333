"""The journal of a run: its calls and the lines of its rows, which one database holds together."""
