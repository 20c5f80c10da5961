"""The child: its network, its inputs, its file, and how a device executes it."""
