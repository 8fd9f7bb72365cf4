"""How the steps of an experiment are run: a plan file, Snakemake, one process for each step."""
