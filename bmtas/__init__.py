"""Multi-task networks under a resource budget: search, train, export, measure."""
