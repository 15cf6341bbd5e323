"""Do: one module or package for each kind of engine; the only code that touches an engine."""
