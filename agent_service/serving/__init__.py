"""Kit of both services: server, handlers, limits, authorization, options, logs, health."""
