"""One file per equation group of the paper: pure functions, tensors in, scalar out."""
