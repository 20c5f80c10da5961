"""What training scripts import: light, without torch."""
