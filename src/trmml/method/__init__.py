"""TRM-ML: a file per box of the paper's figure, and `trmml` that joins them."""
