"""Kernels for NVIDIA GPUs: from a choice to TIR (one file a way to compute), from TIR to CUDA source."""
