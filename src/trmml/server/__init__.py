"""A run in the browser: tag, review, search. `serve.serve` is where to begin."""
