"""Leaf kernels: plain C functions over raw pointers, sizes and strides, made by TVM. One file a kind of leaf."""
