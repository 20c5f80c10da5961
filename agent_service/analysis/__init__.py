"""The decision log, read: as tables, as other policy versions would have decided, as estimates."""
