"""Studies: methods compared under one protocol, over seeds, and what came of it."""
