"""Item embedding tables: where a row lives and how it reaches the model."""
