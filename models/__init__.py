"""The network of the paper (Sec. III-D) and the importer of released weights."""
