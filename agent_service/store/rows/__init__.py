"""Conversion between rows and values, table by table."""
