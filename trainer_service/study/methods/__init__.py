"""Kinds of methods, and which children each trains."""
