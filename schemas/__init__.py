"""The words: frozen types of every document that crosses a boundary, and the loading and checking of a spec."""
