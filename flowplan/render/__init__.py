"""Documents for people: plans as text and Markdown, tables, objects and differences; pure functions from values to lines."""
