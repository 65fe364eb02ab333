"""What a terminal shows of a run: its progress, its summary, a row, the folders that there are."""
