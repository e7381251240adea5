"""The paper's search (BMTAS): which encoder layers the tasks share, as a tree, under a budget."""
