"""The state: records, attempts, events and settings of one project, in SQLite behind one narrow interface."""
