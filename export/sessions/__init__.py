"""One room per runtime: exported files that are loaded and run, all through the same small protocol. Needs no torch."""
