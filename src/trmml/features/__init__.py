"""What a frozen encoder says of images: loaded, computed once, stored and read in batches."""
