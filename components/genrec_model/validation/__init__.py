"""The data gate: a Great Expectations suite built from a data set's specification."""
