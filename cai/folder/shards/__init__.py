"""Shards: one run that several processes or machines play, each a part of its input in a folder of its own."""
