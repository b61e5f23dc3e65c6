"""Redis and Valkey, through redis-py's asyncio client."""
