"""The state in PostgreSQL, for a team: one database holds the states of many projects; the only user of psycopg.

``address`` reads URLs, ``session`` speaks with the server and explains its errors, ``schema`` makes the tables and names
the rights of roles, ``lease`` is the writer's lock, ``store`` reads and writes the rows of one state. Everything works
through a pooler that gives each transaction another connection: no setting, lock or statement outlives a transaction.
"""
