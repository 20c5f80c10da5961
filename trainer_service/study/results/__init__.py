"""Results on disk, and the statistics of them."""
