"""Tables and figures of the paper: read results only, never train."""
