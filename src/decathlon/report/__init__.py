"""Looking at results: lists of runs, how far a sweep is, charts, and a static site. Reads records; imports no torch."""
