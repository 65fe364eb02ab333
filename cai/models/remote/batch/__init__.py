"""The batches of providers, asked through the session of a model, with its key, proxy and secrets."""
