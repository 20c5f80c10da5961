"""The queue of runs, where they are stored, and what they leave."""
