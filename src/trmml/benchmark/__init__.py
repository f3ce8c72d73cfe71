"""Methods compared on the same features, masks and metric: a grid, its search, its tables."""
