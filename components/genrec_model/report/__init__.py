"""The report of a run: a summary for programs and a page for people."""
