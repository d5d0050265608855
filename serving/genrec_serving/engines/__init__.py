"""Ways to score a user's history, behind one interface."""
