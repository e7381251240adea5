"""Branch merging: equal operations of parallel branches run as one wider or grouped operation, where measuring shows a gain."""
