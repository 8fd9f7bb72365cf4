"""How the steps of an experiment are run."""
