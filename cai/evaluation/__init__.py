"""What it is worth: judges against people, constitutions against their tests, the hygiene of a dataset."""
