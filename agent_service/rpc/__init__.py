"""gRPC: decode, call, encode; and the generic parts that serve any service."""
