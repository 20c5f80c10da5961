"""The trainer service: trains children on one device."""
