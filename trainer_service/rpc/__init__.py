"""gRPC of the trainer service: decode, call, encode."""
