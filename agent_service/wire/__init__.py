"""Shared by client and servers: messages, statuses, certificates, tokens, addresses."""
