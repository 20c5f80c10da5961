"""The trainer service over gRPC."""
