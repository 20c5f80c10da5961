"""How images come to the device."""
