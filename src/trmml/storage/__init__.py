"""Files that are written whole or not at all, content hashes and the cache folder."""
