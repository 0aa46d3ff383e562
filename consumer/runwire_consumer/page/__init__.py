"""The built-in page: its files, and what it asks for: the table of runs, curves in buckets, what changes meanwhile."""
