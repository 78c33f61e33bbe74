"""The model as ONNX files: written from a checkpoint, and run by onnxruntime behind the same pipeline."""

from florence2.onnx.export import export
from florence2.onnx.load import OnnxCheckpoint, load
from florence2.onnx.runtime import OnnxModel

__all__ = ["OnnxCheckpoint", "OnnxModel", "export", "load"]
