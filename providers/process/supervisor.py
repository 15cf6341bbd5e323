"""Starts runs, outlives flowplan, keeps their time limits and records how they end: the program.

One such process serves one flowplan command, whatever the number of runs. It is started as
``python -I -S -E supervisor.py RUNS_DIR LIBRARY...`` and imports nothing but a few modules of the standard library and
those beside it, so that it stays small; where a run's output must be redacted, also what does that. See ``supervising``.
"""

import sys

if __name__ == "__main__":
    sys.path += sys.argv[2:]
    from flowplan.providers.process.daemon import main

    main(sys.argv[1])
