//! Networks as ONNX graphs.
