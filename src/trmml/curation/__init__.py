"""What a run does for the table it came from: complete it, and say what to ask people next."""
