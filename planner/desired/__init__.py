"""From a spec and its variables to the runs that it wants, complete and with the origin of every value."""
