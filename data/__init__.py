"""Cases, centers and training samples: from files on disk to tensors."""
