"""ONNX export of HSTU: one file for ONNX Runtime and for TensorRT."""
