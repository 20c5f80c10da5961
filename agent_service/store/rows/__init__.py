"""Rows to values and back, table by table."""
