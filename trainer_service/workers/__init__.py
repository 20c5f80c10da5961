"""The processes that train runs, on this machine or on Ray."""
