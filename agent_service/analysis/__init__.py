"""Analysis of the decision log: tables, verification, replays and comparisons of policies."""
