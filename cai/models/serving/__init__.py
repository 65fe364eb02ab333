"""Servers that this package starts for a model, watches, and stops: vLLM and SGLang, each in a process of its own."""
