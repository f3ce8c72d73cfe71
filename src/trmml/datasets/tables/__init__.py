"""Tables of labels, and masks that say which of them are known."""
