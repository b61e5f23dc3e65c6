"""Files of other programs; every run gives their sessions and messages the same ids."""
