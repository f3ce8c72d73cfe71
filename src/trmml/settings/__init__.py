"""Every setting of a run, its default and its range."""
