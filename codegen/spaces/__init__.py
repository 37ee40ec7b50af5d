"""How an operator may be scheduled: knobs, constraints between them, and what a choice becomes. One file a space."""
