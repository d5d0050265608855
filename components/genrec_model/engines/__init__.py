"""Inference engines built from an artifact's ONNX: ONNX Runtime and TensorRT."""
