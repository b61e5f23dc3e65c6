"""SQLite, on aiosqlite."""
