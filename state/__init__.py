"""Remember: records, attempts, events, accepted plans, the writer's lock and formats; the only user of databases.

``Store`` is the interface, and what is written when something happens; ``location`` says where a state is. ``reading``
(queries), ``journal`` (writes), ``rows`` (documents), ``transitions``, ``acceptance``, ``pruning`` and ``transfer``
(dumps) are the same for every database: their statements are such that both take them. ``sqlite`` and ``postgres`` open,
lock, upgrade and explain their own. Everything that grows with the number of runs is asked and written as a set, so that
a command takes the same number of statements for one run and for thousands.
"""
