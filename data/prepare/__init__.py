"""From data sets to prepared cases: one grid, a cache, duplicates refused."""
