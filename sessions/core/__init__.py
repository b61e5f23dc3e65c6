"""What every backend shares: checks, ids, retries, and what belongs to one event loop."""
