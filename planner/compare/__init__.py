"""From what is wanted, recorded and observed to the changes of a plan, with reasons and effects."""
