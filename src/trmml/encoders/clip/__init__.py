"""Encoders of the CLIP family, as open_clip has them."""
