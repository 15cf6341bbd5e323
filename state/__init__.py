"""Remember: records, attempts, events, the writer's lock and migrations; the only user of SQLite."""
