"""What the check of a data set reports: figures, pictures, Table I."""
