"""Load on an agent service: many simulated children at once, and what it makes of them."""
