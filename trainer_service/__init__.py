"""The trainer service: trains children, one service for each device."""
