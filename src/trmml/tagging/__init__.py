"""Use of a finished run: tags, scores and region maps."""
