"""Features of images by a frozen encoder: computed once, stored and read in batches."""
