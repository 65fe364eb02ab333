"""The batches of providers, through their SDKs, with the key, proxy and secrets of a model."""
