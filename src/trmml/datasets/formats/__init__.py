"""A reader per format in which labelled images come."""
