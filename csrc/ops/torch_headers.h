// The headers that most operators include, and that take longest to read: setup.py compiles them once.
// Sources still name what they use.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>
