"""Backends of chat models: servers of the OpenAI protocol, OpenAI's Batch API, and models on this machine."""
