"""Deciders of actions, one file, one class, one idea each."""
