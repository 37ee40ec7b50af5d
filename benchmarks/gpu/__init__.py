"""What a machine with a GPU is asked: are the exported kernels right, and how fast. No TVM, no network."""
