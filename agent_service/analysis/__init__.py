"""The decision log, read: as tables, and as other policy versions would have decided."""
