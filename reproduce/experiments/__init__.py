"""Which trainings and evaluations fill the tables, and at which size."""
