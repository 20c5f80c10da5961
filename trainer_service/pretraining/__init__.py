"""Learning a policy across problems: their distribution, stacks of twins, PPO and its page."""
