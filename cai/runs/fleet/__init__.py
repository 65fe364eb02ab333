"""A run that several processes play, each a shard of it."""
