"""Search a collection by tags, texts, images and boxes: one LanceDB table in a folder."""
