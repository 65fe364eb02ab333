"""For the terminal: one row whole, and the folders that there are."""
