"""A cap that several processes share."""
