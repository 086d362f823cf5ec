// Checks that the bindings of several kinds of operations share.
#pragma once
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arguments.h"
#include "finish.h"
#include "kernels.h"
#include "operation.h"

// The vector of an optional array of `length` floats; empty if there is none.
std::vector<float> channel_vector(const std::optional<Array>& a, int64_t length, const char* name);

// `layout` must be the image that a window reads (what = "x") or the one that it writes ("encode"): refuses others, and
// margins of an input too small for the window.
void check_input_layout(const CodeLayout& layout, const Conv2dShape& shape);
// Refuses what only operations on exact sums can end in.
void check_simple(const Finish& finish);
void check_finish(const Finish& finish, const Conv2dShape& shape);
// Of operations on floats.
void check_float_finish(const Finish& finish);

// The whole numbers of a convolution's weight, [O][C / groups][kernel_h][kernel_w] of the window: refuses other shapes.
const int8_t* conv_weights(const Array& weights, const Conv2dShape& shape);

// Operations per second of a loop that gives operations per repeat: the best of a few short runs, since what else the
// machine does can only slow one down.
double best_speed(int64_t (*loop)(int64_t repeats, int32_t* keep), int64_t repeats);
