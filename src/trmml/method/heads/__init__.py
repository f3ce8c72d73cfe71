"""Beyond the paper: classifiers beside the match, and what joins them."""
