"""The kit of both services: server, handlers, limits, guards, options, logs, health."""
