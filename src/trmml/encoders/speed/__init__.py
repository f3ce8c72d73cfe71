"""Faster arithmetic for any encoder: half precision, int8 and ONNX Runtime."""
