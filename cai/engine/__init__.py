"""The method in words: the questions, and the flows of critique and revision."""
