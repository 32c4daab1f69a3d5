"""robustcodec: a learned image codec that holds up when its input is hostile."""

__version__ = "0.1.0.dev0"
