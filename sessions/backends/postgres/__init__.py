"""PostgreSQL, on asyncpg."""
