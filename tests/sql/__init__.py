"""What PostgreSQL and SQLite share."""
