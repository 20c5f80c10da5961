"""Durable implementations of the store's port."""
