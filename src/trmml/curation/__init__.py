"""What a finished run does for the table it came from: which pairs to ask people about next."""
