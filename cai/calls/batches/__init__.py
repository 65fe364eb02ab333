"""Calls that are gathered and sent as a provider's batch."""
