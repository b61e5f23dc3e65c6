"""What the commands of `sessions.cli` do, and how they print it."""
