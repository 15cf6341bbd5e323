"""The state in a file of SQLite, for one user on one host; the only user of SQLite.

``store`` opens and writes the file, ``files`` makes it private and whole and explains what goes wrong with it, ``home``
knows copies of it, ``lock`` is the writer's lock, ``migrations`` are its formats.
"""
