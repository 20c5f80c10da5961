"""Values and ports of runs and controllers; standard library and NumPy only."""
