"""Remember: records, attempts, events, accepted plans, the writer's lock and migrations; the only user of SQLite.

``rows`` (documents), ``transitions`` (what is written when something happens), ``transfer`` (dumps) and the interface of
``Store`` are the same for every database. ``reading`` (queries), ``journal`` (writes), ``files``, ``home``, ``lock``,
``migrations`` and the transactions of ``Store`` are SQLite's. Everything that grows with the number of runs is asked and
written as a set, so that a command takes the same number of statements for one run and for thousands.
"""
