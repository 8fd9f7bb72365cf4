"""The only place that trains and predicts: one loop, one inference path, one evaluation."""
