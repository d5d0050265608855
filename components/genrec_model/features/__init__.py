"""From events to the rows that HSTU reads; training and serving share every line of it."""
