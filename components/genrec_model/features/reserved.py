"""Rows of the item and action tables that stand for no item and no action of the data."""

#: Item rows: padding, an item that the vocabulary lacks, and the row that starts every history.
PADDING, UNKNOWN, START = 0, 1, 2
NUM_RESERVED = 3
#: Action rows: none (start row, candidates), and an action that the vocabulary lacks.
NO_ACTION, UNKNOWN_ACTION = 0, 1
NUM_RESERVED_ACTIONS = 2
