"""What an earlier session of a run has left: the folder, and what of it need not be asked again."""
