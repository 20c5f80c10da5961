"""A child's training: data, network, regularizers, scores and the loop; knows no service."""
