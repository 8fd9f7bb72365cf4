"""What a network learns beside the mask: distance map (Eq. 4), slices (Eq. 3), anchors (Eq. 8)."""
