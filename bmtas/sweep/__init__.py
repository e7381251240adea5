"""Several budgets, methods and seeds as one list of jobs that can be stopped and gone on with. Needs no torch."""
