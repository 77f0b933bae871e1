"""Cell segmentation served over gRPC: raw camera frame in, finished cells out."""

__version__ = "0.1.0"
