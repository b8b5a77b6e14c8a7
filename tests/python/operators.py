"""Makes the reference table of the tensor operators: fresh random inputs, and results from NumPy and ONNX's evaluator.

It never calls hearth: the host's tests read the folder and compare (`host/src/device/reference_tests.rs`).

    operators.py SEED FOLDER [--rounds N]

FOLDER gets cases.json and data.bin. A case is {"name", "call", "inputs", "outputs"} or, where an error is expected,
{"name", "call", "inputs", "error", "mentions"}. `call` is the operator's name and its parameters, as in wit/operators.wit.
A tensor is {"dtype", "shape", "offset"}, with `offset` the place of its first byte in data.bin. An output also has a
"check": "exact" (the same bits; any NaN for a NaN), {"relative": t} (the values in data.bin are f64; the difference is at
most t times the larger of 1 and the magnitude; a wider t where what was added up is larger than its sum) or {"rounded": t} (the same, but a u8 within 0.5 + t of the f64).

The same seed gives the same table with one version of NumPy and onnx.
"""

import argparse
import json
import math
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops import op_resize

DTYPES = {
    "boolean": np.dtype(bool),
    "u8": np.dtype(np.uint8),
    "s8": np.dtype(np.int8),
    "u16": np.dtype(np.uint16),
    "s16": np.dtype(np.int16),
    "u32": np.dtype(np.uint32),
    "s32": np.dtype(np.int32),
    "u64": np.dtype(np.uint64),
    "s64": np.dtype(np.int64),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = ["f16", "bf16", "f32", "f64"]
INTEGERS = [name for name in DTYPES if name[0] in "us"]
NUMBERS = INTEGERS + FLOATS
TOLERANCE = {"f16": 2e-3, "bf16": 2e-2, "f32": 1e-5, "f64": 1e-12}


def in_f64(coefficients):
    """The evaluator's cubic coefficients with `A` as a Python float: it passes a NumPy f32, which makes them all f32."""
    return lambda ratio, scale=None, A=-0.75: coefficients(ratio, scale, float(A))


op_resize._cubic_coeffs = in_f64(op_resize._cubic_coeffs)
op_resize._cubic_coeffs_antialias = in_f64(op_resize._cubic_coeffs_antialias)


class Table:
    """Cases, and the bytes of their tensors."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.cases = []
        self.data = bytearray()
        self.near_ties = 0

    def tensor(self, array):
        array = np.asarray(array)
        self.data.extend(b"\0" * (-len(self.data) % 8))
        offset = len(self.data)
        self.data.extend(np.ascontiguousarray(array).tobytes())
        return {"dtype": NAMES[array.dtype], "shape": list(array.shape), "offset": offset}

    def case(self, call, inputs, outputs):
        """Adds a case. An output is an array (exact) or a pair of dtype and array of f64 (within the dtype's tolerance), or
        with a third number within so many times the tolerance."""
        described = []
        for output in outputs:
            if isinstance(output, tuple):
                dtype, values, times = (*output, 1.0)[:3]
                check = {"rounded": 1e-3} if dtype == "u8" else {"relative": TOLERANCE[dtype] * times}
                tensor = self.tensor(np.asarray(values, dtype=np.float64))
                described.append({**tensor, "dtype": dtype, "check": check})
            else:
                described.append({**self.tensor(output), "check": "exact"})
        self.add(call, inputs, {"outputs": described})

    def error(self, call, inputs, mentions, kind="invalid-argument"):
        self.add(call, inputs, {"error": kind, "mentions": mentions})

    def add(self, call, inputs, expected):
        tensors = [self.tensor(array) for array in inputs]
        shapes = " ".join(f"{tensor['dtype']}{tensor['shape']}" for tensor in tensors)
        name = f"{len(self.cases)}: {json.dumps(call)} of {shapes}"
        self.cases.append({"name": name, "call": call, "inputs": tensors, **expected})

    def pick(self, choices):
        return choices[self.rng.integers(len(choices))]

    def integer(self, low, high):
        return int(self.rng.integers(low, high))

    def shape(self, rank, most=4_000, zeros=True):
        """Random dimensions, now and then one of 0."""
        while True:
            sizes = [1, 1, 2, 3, 4, 5, 7, 8, 13, 17, 33, 65, 100] if rank < 5 else [1, 1, 2, 2, 3, 4, 5]
            dims = [int(self.pick(sizes)) for _ in range(rank)]
            if zeros and rank and self.rng.random() < 0.06:
                dims[self.integer(0, rank)] = 0
            if np.prod(dims, dtype=object) <= most:
                return dims

    def array(self, name, shape, special=True):
        """Random elements: of integers the whole range, of floats several magnitudes and, if `special`, NaN and infinity."""
        dtype = DTYPES[name]
        if name == "boolean":
            return self.rng.random(shape) < 0.5
        if name in INTEGERS:
            info = np.iinfo(dtype)
            array = self.rng.integers(info.min, info.max, size=shape, dtype=dtype, endpoint=True)
            small = self.rng.integers(0, 7, size=shape) - (3 if info.min < 0 else 0)
            array = np.where(self.rng.random(shape) < 0.3, small.astype(dtype), array)
            edges = np.array([info.min, info.max, 0, info.min + 1], dtype=dtype)
        else:
            array = self.rng.standard_normal(shape) * self.pick([0.1, 1.0, 30.0])
            array = np.asarray(array, dtype=np.float32 if name == "bf16" else dtype).astype(dtype)
            if not special:
                return array
            edges = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-6, -1e-7, 5e4, 2.5, -0.5]).astype(dtype)
        chosen = self.rng.integers(0, len(edges), size=shape)
        return np.where(self.rng.random(shape) < 0.05, edges[chosen], array).astype(dtype)


def wide(array):
    """As f64, which holds every float exactly."""
    return np.asarray(array).astype(np.float32).astype(np.float64) if array.dtype == DTYPES["bf16"] else array.astype(np.float64)


def evaluate(kind, inputs, opset=19, **attributes):
    """The result of one ONNX operator by the reference evaluator."""
    names = [f"input{index}" if value is not None else "" for index, value in enumerate(inputs)]
    values = {name: value for name, value in zip(names, inputs, strict=True) if value is not None}
    node = helper.make_node(kind, names, ["output"], **attributes)
    types = {np.dtype(np.float64): TensorProto.DOUBLE, np.dtype(np.int64): TensorProto.INT64}
    described = [
        helper.make_tensor_value_info(name, types.get(value.dtype, TensorProto.FLOAT), value.shape)
        for name, value in values.items()
    ]
    graph = helper.make_graph([node], "one", described, [helper.make_tensor_value_info("output", TensorProto.UNDEFINED, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return ReferenceEvaluator(model).run(None, values)[0]


# Arithmetic


def divided(a, b):
    """Truncating division in exact integers, wrapped."""
    bits = 8 * a.dtype.itemsize
    a, b = np.broadcast_arrays(a, b)

    def one(x, y):
        x, y = int(x), int(y)
        if y == 0:
            return 0
        quotient = abs(x) // abs(y)
        return quotient if (x < 0) == (y < 0) else -quotient

    exact = [one(x, y) % (1 << bits) for x, y in zip(a.ravel(), b.ravel(), strict=True)]
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    return np.array(exact, dtype=unsigned).view(a.dtype).reshape(a.shape)


def arithmetic(table):
    functions = {
        "add": np.add,
        "subtract": np.subtract,
        "multiply": np.multiply,
        "divide": np.divide,
        "minimum": np.minimum,
        "maximum": np.maximum,
    }
    for name in ["boolean", *NUMBERS]:
        for op, function in functions.items():
            for _ in range(4):
                rank = table.integer(0, 9)
                shape = table.shape(rank)
                a_shape, b_shape = broadcasting(table, shape), broadcasting(table, shape)
                a, b = table.array(name, a_shape), table.array(name, b_shape)
                if name == "boolean" and op not in ("minimum", "maximum"):
                    table.error({"op": op}, [a, b], "boolean")
                elif name in INTEGERS and op == "divide":
                    table.case({"op": op}, [a, b], [divided(a, b)])
                elif name in FLOATS:
                    table.case({"op": op}, [a, b], [(name, wide(function(a, b)))])
                else:
                    table.case({"op": op}, [a, b], [function(a, b)])
    for shapes in ([[200, 3], [3]], [[3], [200, 3]], [[40, 5, 3], [3]], [[300], []], [[50, 1], [1, 70]], [[9, 8, 3], [9, 1, 3]]):
        a, b = (table.array("f32", shape) for shape in shapes)
        table.case({"op": "subtract"}, [a, b], [("f32", wide(a - b))])
    table.error({"op": "add"}, [np.zeros([2, 3]), np.zeros([2])], "b:")
    table.error({"op": "add"}, [np.zeros([0]), np.zeros([2])], "broadcast")
    table.error({"op": "add"}, [np.zeros([2]), np.zeros([2], dtype=np.float32)], "dtype")
    table.error({"op": "add"}, [np.zeros([2])], "two tensors")


def broadcasting(table, shape):
    """A shape that broadcasts with another to the given one or a part of it."""
    shape = [1 if table.rng.random() < 0.25 else dim for dim in shape]
    return shape[table.integer(0, len(shape) + 1) :] if table.rng.random() < 0.3 else shape


# Conversions


def to_bf16(values):
    """Rounds once, half to even, from numbers that an 80-bit float holds exactly."""
    values = values.astype(np.longdouble)
    finite = np.isfinite(values)
    safe = np.where(finite, values, 0)
    _, exponent = np.frexp(safe)
    unit = np.ldexp(np.longdouble(1), np.maximum(exponent - 8, -133))
    rounded = np.rint(safe / unit) * unit
    rounded = np.where(np.abs(rounded) >= np.ldexp(np.longdouble(1), 128), np.copysign(np.inf, safe), rounded)
    return np.where(finite, rounded, values).astype(np.float32).astype(ml_dtypes.bfloat16)


def cast_to(array, name):
    """`cast`: ONNX's, where that leaves something open as wit/operators.wit says."""
    source, target = NAMES[array.dtype], DTYPES[name]
    if name == "boolean":
        return wide(array) != 0 if source in FLOATS else array != 0
    if name == "bf16":
        return to_bf16(wide(array) if source in FLOATS else array)
    if source in FLOATS and name in INTEGERS:
        info = np.iinfo(target)
        whole = np.trunc(wide(array))
        whole = np.where(np.isnan(whole), 0.0, whole)
        low, high = whole <= float(info.min), whole >= float(info.max)
        inside = np.where(low | high, 0.0, whole).astype(target)
        return np.where(low, info.min, np.where(high, info.max, inside)).astype(target)
    return (array.astype(np.float32) if source == "bf16" else array).astype(target)


def casts(table):
    for source in DTYPES:
        for target in DTYPES:
            array = table.array(source, table.shape(table.integer(0, 4)))
            table.case({"op": "cast", "dtype": target}, [array], [cast_to(array, target)])
    edges = [2049.0, 65519.0, 65520.0, 1 + 2**-11 + 2**-40, 1 + 2**-8 + 2**-45, 2**-25 * 1.0000001, 6e-8, 1e-40, 1e39, -129.5, 256.0]
    for target in DTYPES:
        for array in (np.array(edges), np.array([2**63 - 1, 2**55 + 2**47 + 1, -(2**63), 2**24 + 1, -1, 300])):
            table.case({"op": "cast", "dtype": target}, [array], [cast_to(array, target)])
    table.case({"op": "cast", "dtype": "bf16"}, [np.array([2**64 - 1, 2**63 + 2**55 + 1], dtype=np.uint64)],
               [to_bf16(np.array([2**64 - 1, 2**63 + 2**55 + 1], dtype=np.uint64))])
    table.error({"op": "cast", "dtype": "text"}, [np.zeros([2])], "text")


# Images


def scales(table, rounds):
    lengths = [1, 2, 3, 4, 5, 6, 7, 9, 12, 16, 31]
    for round_ in range(60 * rounds):
        layout = table.pick(["hwc", "chw"])
        source = [int(table.pick(lengths)), int(table.pick(lengths))]
        target = [int(table.pick(lengths)), int(table.pick(lengths))]
        batch = table.pick([[], [], [2], [1, 3], [0]])
        channels = int(table.pick([1, 1, 2, 3, 3, 3, 4, 5]))
        shape = batch + ([*source, channels] if layout == "hwc" else [channels, *source])
        for interpolation in ("nearest", "bilinear", "bicubic", "area"):
            name = table.pick(["u8", "u8", "f32", "f16", "bf16", "f64"])
            antialias = bool(round_ % 2) and interpolation in ("bilinear", "bicubic")
            coordinates = table.pick(["half-pixel", "half-pixel", "pytorch-half-pixel", "align-corners", "asymmetric"])
            call = {
                "op": "resize",
                "height": target[0],
                "width": target[1],
                "layout": layout,
                "interpolation": interpolation,
                "coordinates": coordinates,
                "antialias": antialias,
            }
            array = table.array(name, shape, special=False)
            if interpolation == "nearest" and name in FLOATS:
                array = table.array(name, shape)
            table.case(call, [array], [resized(table, call, array)])
    whole = {"op": "resize", "height": 2, "width": 2, "layout": "hwc", "interpolation": "bilinear",
             "coordinates": "half-pixel", "antialias": False}
    image = np.zeros([3, 4, 3], dtype=np.uint8)
    table.error({**whole, "height": 0}, [image], "height")
    table.error({**whole, "width": 0}, [image], "width")
    table.error({**whole, "interpolation": "nearest", "antialias": True}, [image], "antialias")
    table.error({**whole, "interpolation": "area", "antialias": True}, [image], "antialias")
    table.error(whole, [image[0]], "[.., height, width, channels]")
    table.error(whole, [np.zeros([0, 4, 3], dtype=np.uint8)], "no pixels")
    table.error(whole, [image.astype(np.int32)], "s32")
    table.error(whole, [image.astype(bool)], "boolean")
    table.error({**whole, "height": 2**32 - 1, "width": 2**32 - 1}, [image], "too many elements", "too-large")
    table.error({**whole, "height": 2**31, "width": 2**10}, [image], "operator_operations", "too-large")


def resized(table, call, array):
    axes = [-3, -2] if call["layout"] == "hwc" else [-2, -1]
    name = NAMES[array.dtype]
    result = array if call["interpolation"] == "nearest" else wide(array)
    for axis, length in zip(axes, (call["height"], call["width"]), strict=True):
        result = resized_axis(table, call, result, axis % array.ndim, length)
    if call["interpolation"] == "nearest":
        return result
    return (name, np.clip(result, 0, 255) if name == "u8" else result)


def resized_axis(table, call, array, axis, length):
    source, interpolation, coordinates = array.shape[axis], call["interpolation"], call["coordinates"]
    if interpolation == "area" and source > length:
        return area(array, axis, length)
    if interpolation == "area":
        interpolation, coordinates = "bilinear", "half-pixel"
    if coordinates == "pytorch-half-pixel" and length == 1:
        # The specification has coordinate 0, as `asymmetric`; the evaluator has -0.5.
        coordinates = "asymmetric"
    if interpolation == "nearest":
        return nearest(table, array, axis, length, coordinates)
    if array.size == 0:
        return np.zeros([length if other == axis else dim for other, dim in enumerate(array.shape)])
    widens = call["antialias"] and source > length
    mode = {"bilinear": "linear", "bicubic": "cubic"}[interpolation]
    return by_evaluator(array, axis, length, coordinates, mode=mode, antialias=int(widens), exclude_outside=int(widens))


def by_evaluator(array, axis, length, coordinates, **attributes):
    sizes = np.array([length if other == axis else dim for other, dim in enumerate(array.shape)], dtype=np.int64)
    names = {"pytorch-half-pixel": "pytorch_half_pixel", "half-pixel": "half_pixel", "align-corners": "align_corners"}
    mode = names.get(coordinates, coordinates)
    return evaluate("Resize", [array, None, None, sizes], coordinate_transformation_mode=mode, cubic_coeff_a=-0.75, **attributes)


def nearest(table, array, axis, length, coordinates):
    """In exact fractions, because the evaluator's ties depend on rounding; elsewhere it must agree."""
    source = array.shape[axis]
    indices, near = [], []
    for x in range(length):
        above, below = {
            "half-pixel": ((2 * x + 1) * source - length, 2 * length),
            "pytorch-half-pixel": ((2 * x + 1) * source - length, 2 * length),
            "align-corners": (x * (source - 1), max(length - 1, 1)),
            "asymmetric": (x * source, length),
        }[coordinates]
        up = -((below - 2 * above) // (2 * below))  # ceil(x - 1/2)
        indices.append(min(max(up, 0), source - 1))
        near.append((2 * above - below) % (2 * below) == 0)
    expected = np.take(array, indices, axis=axis)
    positions = np.arange(source, dtype=np.float64)
    found = by_evaluator(positions, 0, length, coordinates, mode="nearest", nearest_mode="round_prefer_floor")
    for index, (ours, theirs, tie) in enumerate(zip(indices, found, near, strict=True)):
        if ours != theirs:
            assert tie, f"nearest {coordinates} {source} -> {length} at {index}: {ours} but the evaluator has {theirs}"
            table.near_ties += 1
    return expected


def area(array, axis, length):
    """The mean of the covered interval, by a matrix of overlaps."""
    source = array.shape[axis]
    edges = np.arange(length + 1) * source / length
    cells = np.arange(source)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    weights = np.maximum(overlap, 0) * length / source
    return np.moveaxis(np.tensordot(weights, array, axes=([1], [axis])), 0, axis)


def normalizations(table, rounds):
    for _ in range(6 * rounds):
        for name in DTYPES:
            rank = table.integer(1, 6)
            shape = table.shape(rank)
            axis = table.integer(-rank, rank)
            channels = shape[axis]
            array = table.array(name, shape)
            counts = [channels if table.rng.random() < 0.6 else 1 for _ in range(2)]
            scale, offset = (table.rng.standard_normal(count).astype(np.float32) for count in counts)
            spread = [1] * rank
            spread[axis] = -1
            call = {"op": "normalize", "axis": axis, "scale": scale.tolist(), "offset": offset.tolist()}
            source = array.astype(np.float32)
            result = source * scale.reshape(spread) + offset.reshape(spread)
            table.case(call, [array], [("f32", np.broadcast_to(result, shape))])
    image = np.zeros([4, 5, 3], dtype=np.uint8)
    call = {"op": "normalize", "axis": 2, "scale": [1.0], "offset": [0.0]}
    table.error({**call, "scale": [1.0, 2.0]}, [image], "scale")
    table.error({**call, "offset": []}, [image], "offset")
    table.error({**call, "axis": 3}, [image], "axis")
    table.error({**call, "axis": -4}, [image], "axis")
    table.error({**call, "axis": 0}, [np.float32(1)], "axis")


def crops(table, rounds):
    for _ in range(20 * rounds):
        layout = table.pick(["hwc", "chw"])
        rank = table.integer(3, 9)
        name = table.pick(list(DTYPES))
        array = table.array(name, table.shape(rank))
        axes = [rank - 3, rank - 2] if layout == "hwc" else [rank - 2, rank - 1]
        window = []
        for axis in axes:
            start = table.integer(0, array.shape[axis] + 1)
            window.append((start, table.integer(0, array.shape[axis] - start + 1)))
        index = [slice(None)] * rank
        for axis, (start, length) in zip(axes, window, strict=True):
            index[axis] = slice(start, start + length)
        (top, height), (left, width) = window
        call = {"op": "crop", "layout": layout, "top": top, "left": left, "height": height, "width": width}
        table.case(call, [array], [array[tuple(index)]])
    image = np.zeros([4, 5, 3], dtype=np.uint8)
    call = {"op": "crop", "layout": "hwc", "top": 0, "left": 0, "height": 4, "width": 5}
    table.error({**call, "top": 1}, [image], "top")
    table.error({**call, "left": 2**64 - 1}, [image], "left")
    table.error({**call, "layout": "chw"}, [image], "width")
    table.error(call, [image[0]], "[.., height, width, channels]")


# Layout


def pads(table, rounds):
    for _ in range(8 * rounds):
        for mode in ("constant", "edge", "reflect"):
            name = table.pick(list(DTYPES))
            rank = table.integer(0, 7)
            shape = table.shape(rank, most=500)
            array = table.array(name, shape)
            most = [max(dim - 1, 0) if mode == "reflect" else (3 if dim or mode == "constant" else 0) for dim in shape]
            skip = [table.rng.random() < 0.4 for _ in shape]
            before, after = (
                [0 if skipped else table.integer(0, min(limit, 4) + 1) for limit, skipped in zip(most, skip, strict=True)]
                for _ in range(2)
            )
            number = float(table.pick([0.0, 1.0, -1.5, 300.7, 1e300, np.nan, -np.inf]))
            call = {"op": "pad", "before": before, "after": after, "mode": mode}
            widths = list(zip(before, after, strict=True))
            if mode == "constant":
                call["bits"] = int(np.float64(number).view(np.uint64))
                fill = cast_to(np.array(number), name)
                result = np.full([b + dim + a for dim, (b, a) in zip(shape, widths, strict=True)], fill)
                result[tuple(slice(b, b + dim) for dim, (b, _) in zip(shape, widths, strict=True))] = array
            else:
                result = np.pad(array, widths, mode=mode) if rank else array
            table.case(call, [array], [result])
    line = np.arange(3, dtype=np.int16)
    call = {"op": "pad", "before": [1], "after": [0], "mode": "edge"}
    table.error({**call, "before": []}, [line], "before")
    table.error({**call, "after": [1, 2]}, [line], "after")
    table.error({**call, "mode": "reflect", "before": [3]}, [line], "mirror")
    table.error({**call, "mode": "reflect", "after": [1]}, [line[:1]], "mirror")
    table.error(call, [line[:0]], "no edge")
    table.error({**call, "before": [2**64 - 1]}, [line], "too long", "too-large")
    table.error({**call, "before": [2**61]}, [line], "too many", "too-large")
    table.error({**call, "before": [2**31]}, [line], "tensor_bytes", "limit-exceeded")


def permutations(table, rounds):
    shapes = [table.shape(rank) for rank in range(9) for _ in range(3 * rounds)]
    shapes += [[40, 30, 3], [3, 40, 30], [2, 50, 4], [70, 65], [2, 70, 33, 2], [5, 2, 3, 4], [1200, 3], [3, 1200], [2, 2, 600]]
    for shape in shapes:
        name = table.pick(list(DTYPES))
        array = table.array(name, shape)
        axes = table.rng.permutation(len(shape))
        if len(shape) == 3 and table.rng.random() < 0.5:
            axes = np.array(table.pick([[2, 0, 1], [1, 2, 0]]))
        given = [int(axis) - (len(shape) if table.rng.random() < 0.5 else 0) for axis in axes]
        expected = np.transpose(array, axes)
        if array.dtype == np.float32 and len(shape):
            np.testing.assert_array_equal(expected, evaluate("Transpose", [array], perm=[int(axis) for axis in axes]))
        table.case({"op": "permute", "axes": given}, [array], [expected])
    square = np.zeros([2, 2])
    table.error({"op": "permute", "axes": [0, 0]}, [square], "axes[1]")
    table.error({"op": "permute", "axes": [1, -1]}, [square], "axes[1]")
    table.error({"op": "permute", "axes": [0]}, [square], "axes")
    table.error({"op": "permute", "axes": [0, 2]}, [square], "axes[1]")
    table.error({"op": "permute", "axes": [0]}, [np.float64(0)], "axes")


def slices(table, rounds):
    far = 2**63 - 1
    for _ in range(40 * rounds):
        rank = table.integer(0, 9)
        array = table.array(table.pick(list(DTYPES)), table.shape(rank))
        axes = table.rng.permutation(rank)[: table.integer(0, rank + 1)]
        ranges, index = [], [slice(None)] * rank
        for axis in axes:
            dim = array.shape[axis]
            start, end = (int(table.pick([table.integer(-dim - 3, dim + 4), far, -far - 1])) for _ in range(2))
            step = int(table.pick([1, 1, 1, 2, 3, -1, -2, far, -far - 1]))
            given = int(axis) - (rank if table.rng.random() < 0.5 else 0)
            ranges.append({"axis": given, "start": start, "end": end, "step": step})
            index[axis] = slice(start, end, step)
        expected = array[tuple(index)]
        if array.dtype == np.float32 and ranges:
            columns = [np.array([range_[key] for range_ in ranges], dtype=np.int64) for key in ("start", "end", "axis", "step")]
            if abs(columns[3]).max() < far:
                np.testing.assert_array_equal(expected, evaluate("Slice", [array, *columns]))
        table.case({"op": "slice", "ranges": ranges}, [array], [expected])
    line = np.arange(5.0)
    one = {"axis": 0, "start": 0, "end": 2, "step": 1}
    table.error({"op": "slice", "ranges": [{**one, "step": 0}]}, [line], "step")
    table.error({"op": "slice", "ranges": [one, {**one, "axis": -1}]}, [line], "ranges[1]")
    table.error({"op": "slice", "ranges": [{**one, "axis": 1}]}, [line], "ranges[0].axis")
    table.error({"op": "slice", "ranges": [one]}, [np.float64(0)], "axis")


def joins(table, rounds):
    for _ in range(25 * rounds):
        name = table.pick(list(DTYPES))
        rank = table.integer(1, 9)
        shape = table.shape(rank, most=1_000)
        axis = table.integer(-rank, rank)
        parts = []
        for _ in range(table.integer(1, 5)):
            own = list(shape)
            own[axis] = table.integer(0, 6)
            parts.append(table.array(name, own))
        expected = np.concatenate(parts, axis=axis)
        if name == "f32":
            np.testing.assert_array_equal(expected, evaluate("Concat", parts, axis=axis))
        table.case({"op": "concat", "axis": axis}, parts, [expected])
        rank = table.integer(0, 8)
        shape = table.shape(rank, most=1_000)
        axis = table.integer(-rank - 1, rank + 1)
        parts = [table.array(name, shape) for _ in range(table.integer(1, 5))]
        table.case({"op": "stack", "axis": axis}, parts, [np.stack(parts, axis=axis)])
    square = np.zeros([2, 2])
    for op in ("concat", "stack"):
        table.error({"op": op, "axis": 0}, [], "at least one")
        table.error({"op": op, "axis": 3}, [square], "axis")
        table.error({"op": op, "axis": 0}, [square, square.astype(np.float32)], "inputs[1]")
        table.error({"op": op, "axis": 1}, [square, np.zeros([3, 2])], "inputs[1]")
        table.error({"op": op, "axis": 0}, [square, np.zeros([2])], "inputs[1]")
    table.error({"op": "concat", "axis": 0}, [np.float64(0)], "axis")
    table.error({"op": "stack", "axis": 0}, [np.zeros([1] * 8)], "tensor_rank", "too-large")


def reshapes(table, rounds):
    for _ in range(15 * rounds):
        array = table.array(table.pick(list(DTYPES)), table.shape(table.integer(0, 9)))
        divisors = [number for number in range(1, array.size + 1) if array.size % number == 0] or [1]
        first = int(table.pick(divisors))
        dims = table.pick([[-1], [first, -1], [1, first, -1, 1], [first, max(array.size, 1) // first]])
        if array.size == 0:
            dims = table.pick([[0], [0, 5], [-1, 7], [3, 0, 2]])
        table.case({"op": "reshape", "shape": dims}, [array], [array.reshape(dims)])
    table.error({"op": "reshape", "shape": [-1, -1]}, [np.zeros([4])], "-1")
    table.error({"op": "reshape", "shape": [3]}, [np.zeros([4])], "elements")
    table.error({"op": "reshape", "shape": [-1, 3]}, [np.zeros([4])], "infer")
    table.error({"op": "reshape", "shape": [-1, 0]}, [np.zeros([0])], "infer")
    table.error({"op": "reshape", "shape": [-2, 2]}, [np.zeros([4])], "-2")
    table.error({"op": "reshape", "shape": [1] * 9}, [np.zeros([1])], "tensor_rank", "too-large")


# Along an axis


def lanes(table, rounds):
    for _ in range(5 * rounds):
        for name in DTYPES:
            rank = table.integer(1, 9)
            shape = table.shape(rank)
            if table.rng.random() < 0.15:
                shape, rank = table.pick([[2, 2_500], [2_500, 2], [3, 40, 70], [2, 70, 129]]), None
                rank = len(shape)
            axis = table.integer(-rank, rank)
            along(table, name, table.array(name, shape, special=table.rng.random() < 0.5), axis)
    for name in FLOATS:
        for values in ([np.nan, 1.0], [np.inf, 1.0], [-np.inf, -np.inf], [-np.inf, 0.0], [0.0, 0.0], [6e4, 6e4, -6e4]):
            along(table, name, np.array(values).astype(DTYPES[name]), 0)
            along(table, name, np.array([values, values]).astype(DTYPES[name]).T.copy(), 0)
    large = np.array([3e30, -4e30], dtype=np.float32)
    table.case({"op": "l2-normalize", "axis": 0, "epsilon": 0.0}, [large], [("f32", [0.6, -0.8])])
    square = np.zeros([2, 2], dtype=np.float32)
    whole = np.zeros([2], dtype=np.int32)
    for call in ({"op": "softmax"}, {"op": "l2-normalize", "epsilon": 1e-12}):
        table.error({**call, "axis": 2}, [square], "axis")
        table.error({**call, "axis": 0}, [whole], "dtype")
        table.error({**call, "axis": 0}, [np.float32(0)], "axis")
    table.error({"op": "l2-normalize", "axis": 0, "epsilon": -1.0}, [square], "epsilon")
    table.error({"op": "argmax", "axis": -3, "keep_axis": True}, [square], "axis")
    table.error({"op": "argmax", "axis": 1, "keep_axis": True}, [square[:, :0]], "empty")
    table.error({"op": "top-k", "k": 3, "axis": 1, "largest": True}, [square], "k:")
    table.error({"op": "top-k", "k": 2**64 - 1, "axis": 1, "largest": True}, [square], "k:")
    table.error({"op": "top-k", "k": 1, "axis": 2, "largest": True}, [square], "axis")


def along(table, name, array, axis):
    length = array.shape[axis]
    if name in FLOATS:
        exact = wide(array)
        table.case({"op": "softmax", "axis": axis}, [array], [(name, softmax(exact, axis))])
        epsilon = float(np.float32(table.pick([0.0, 1e-12, 0.5])))
        norm = np.sqrt(np.sum(exact * exact, axis=axis, keepdims=True))
        divisor = np.where(norm < epsilon, epsilon, norm)
        table.case({"op": "l2-normalize", "axis": axis, "epsilon": epsilon}, [array], [(name, exact / divisor)])
    ranks = ranked(array, axis)
    if length:
        keep = bool(table.integer(0, 2))
        expected = np.expand_dims(np.argmax(ranks, axis=axis), axis) if keep else np.argmax(ranks, axis=axis)
        table.case({"op": "argmax", "axis": axis, "keep_axis": keep}, [array], [expected.astype(np.int64)])
    largest = bool(table.integer(0, 2))
    k = int(table.pick([0, min(1, length), min(5, length), length, table.integer(0, length + 1)]))
    order = np.argsort(-ranks if largest else ranks, axis=axis, kind="stable").take(np.arange(k), axis=axis)
    call = {"op": "top-k", "k": k, "axis": axis, "largest": largest}
    table.case(call, [array], [np.take_along_axis(array, order, axis=axis), order.astype(np.int64)])


def softmax(exact, axis):
    if exact.size and np.isfinite(exact).all():
        return evaluate("Softmax", [exact], opset=13, axis=axis)
    most = np.max(exact, axis=axis, keepdims=True, initial=-np.inf)
    powers = np.exp(exact - most)
    return powers / powers.sum(axis=axis, keepdims=True)


def ranked(array, axis):
    """Small integers in the order of the elements: equal elements have one, NaN the largest."""
    comparable = wide(array) if NAMES[array.dtype] in FLOATS else array
    return np.unique(comparable, return_inverse=True)[1].reshape(array.shape).astype(np.int64)


def pools(table, rounds):
    for _ in range(3 * rounds):
        for name in FLOATS:
            for mask_name in DTYPES:
                batch, tokens, features = (int(table.pick([0, 1, 2, 3, 9])), int(table.pick([0, 1, 2, 7, 33])),
                                           int(table.pick([0, 1, 3, 65, 300])))
                array = table.array(name, [batch, tokens, features], special=False)
                mask = table.rng.integers(0, 2, size=[batch, tokens])
                if mask_name in FLOATS and table.rng.random() < 0.5:
                    mask = table.rng.random([batch, tokens]) * mask
                mask = mask.astype(np.float32).astype(DTYPES[mask_name]) if mask_name == "bf16" else mask.astype(DTYPES[mask_name])
                weights = wide(mask)
                sums = np.einsum("btf,bt->bf", wide(array), weights)
                expected = sums / np.maximum(weights.sum(axis=1), 1e-9)[:, None]
                if table.rng.random() < 0.5:
                    # What is masked does not count, whatever it is.
                    array = np.where((weights == 0)[:, :, None], np.array(np.nan).astype(array.dtype), array)
                table.case({"op": "masked-mean-pool"}, [array, mask], [(name, expected)])
    array, mask = np.zeros([2, 3, 4], dtype=np.float32), np.zeros([2, 3], dtype=np.int64)
    call = {"op": "masked-mean-pool"}
    table.error(call, [array, mask.T], "mask")
    table.error(call, [array[0], mask], "input")
    table.error(call, [array.astype(np.int8), mask], "input")
    table.error(call, [array], "two tensors")


# Comparisons, choices, functions


def comparisons(table, rounds):
    functions = {"equal": np.equal, "not-equal": np.not_equal, "less": np.less, "less-or-equal": np.less_equal,
                 "greater": np.greater, "greater-or-equal": np.greater_equal}
    for _ in range(rounds):
        for name in DTYPES:
            for op, function in functions.items():
                shape = table.shape(table.integer(0, 9))
                a, b = table.array(name, broadcasting(table, shape)), table.array(name, broadcasting(table, shape))
                if a.shape == b.shape:
                    b = np.where(table.rng.random(shape_of(a)) < 0.4, a, b).astype(a.dtype)
                table.case({"op": op}, [a, b], [function(a, b)])
        for op, function in {"logical-and": np.logical_and, "logical-or": np.logical_or}.items():
            shape = table.shape(table.integer(0, 9))
            a, b = (table.array("boolean", broadcasting(table, shape)) for _ in range(2))
            table.case({"op": op}, [a, b], [function(a, b)])
        for name in DTYPES:
            shape = table.shape(table.integer(0, 7))
            condition = table.array("boolean", broadcasting(table, shape))
            a, b = table.array(name, broadcasting(table, shape)), table.array(name, broadcasting(table, shape))
            table.case({"op": "select"}, [condition, a, b], [np.where(condition, a, b).astype(a.dtype)])
    for steps in np.ndindex(2, 2, 2):
        condition, a, b = (table.array(name, [3, 50 if step else 1]) for name, step in zip(["boolean", "f32", "f32"], steps))
        table.case({"op": "select"}, [condition, a, b], [np.where(condition, a, b)])
    for op in functions:
        table.error({"op": op}, [np.zeros([2]), np.zeros([2], dtype=np.float32)], "dtype")
        table.error({"op": op}, [np.zeros([2]), np.zeros([3])], "broadcast")
    for op in ("logical-and", "logical-or"):
        table.error({"op": op}, [np.zeros([2]), np.zeros([2])], "boolean")
    table.error({"op": "logical-not"}, [np.zeros([2])], "boolean")
    table.error({"op": "select"}, [np.zeros([2]), np.zeros([2]), np.zeros([2])], "condition")
    table.error({"op": "select"}, [np.zeros([2], dtype=bool), np.zeros([2])], "three tensors")


def shape_of(array):
    return np.asarray(array).shape


def exact_erf(array):
    return np.vectorize(math.erf, otypes=[np.float64])(array) if np.size(array) else np.asarray(array)


def exact_gelu(array):
    return array / 2 * (1 + exact_erf(array / math.sqrt(2)))


def agreeing(kind, function):
    """A function on f64 that ONNX's evaluator, which computes it in f32, agrees with."""

    def both(array):
        result = function(array)
        if np.size(array):
            np.testing.assert_allclose(evaluate(kind, [array], opset=20), result, rtol=1e-6, atol=1e-6)
        return result

    return both


def functions(table, rounds):
    exact = {"abs": np.abs, "negate": np.negative, "sign": np.sign, "relu": lambda x: np.where(x < 0, np.zeros_like(x), x)}
    whole = {"floor": np.floor, "ceil": np.ceil, "round": np.round}
    near = {"exp": np.exp, "log": np.log, "sqrt": np.sqrt, "reciprocal": np.reciprocal, "sigmoid": agreeing("Sigmoid", lambda x: 1 / (1 + np.exp(-x))), "tanh": agreeing("Tanh", np.tanh),
            "gelu": agreeing("Gelu", exact_gelu), "erf": agreeing("Erf", exact_erf)}
    signed = [name for name in INTEGERS if name[0] == "s"]
    for _ in range(2 * rounds):
        for name in NUMBERS:
            for op, function in exact.items():
                array = table.array(name, table.shape(table.integer(0, 9)))
                if op in ("negate", "relu") and name not in signed + FLOATS:
                    table.error({"op": op}, [array], "signed")
                elif op in ("sign", "relu") and name in FLOATS:
                    # The sign of a zero is left open.
                    table.case({"op": op}, [array], [(name, wide(function(array)))])
                else:
                    table.case({"op": op}, [array], [np.asarray(function(array)).astype(array.dtype)])
        for name in FLOATS:
            array = table.array(name, table.shape(table.integer(0, 9)))
            for op, function in whole.items():
                table.case({"op": op}, [array], [function(wide(array)).astype(array.dtype)])
            for op, function in near.items():
                array = table.array(name, table.shape(table.integer(0, 5)))
                values = np.abs(array) if op in ("log", "sqrt") and table.rng.random() < 0.7 else array
                table.case({"op": op}, [values], [(name, np.asarray(function(wide(values))))])
        for name in NUMBERS:
            array = table.array(name, table.shape(table.integer(0, 9)))
            low, high = sorted(float(x) for x in table.rng.standard_normal(2) * table.pick([1, 50, 1e20]))
            low, high = table.pick([(low, high), (low, low), (-np.inf, high), (low, np.inf), (-np.inf, np.inf)])
            bounds = [cast_to(np.array(bound), name) for bound in (low, high)]
            clipped = np.where(array < bounds[0], bounds[0], array)
            clipped = np.where(clipped > bounds[1], bounds[1], clipped).astype(array.dtype)
            table.case({"op": "clamp", "low": repr(low), "high": repr(high)}, [array], [clipped])
    flags = table.array("boolean", [3, 5])
    table.case({"op": "logical-not"}, [flags], [~flags])
    for name in FLOATS:
        edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-7, -1e-7, 88.0, -88.0, 104.0, -104.0, 700.0, 5.5, -5.5, 0.5, 1.5, 5e4, -5e4])
        edges = edges.astype(DTYPES[name])
        for op, function in near.items():
            table.case({"op": op}, [edges], [(name, np.asarray(function(wide(edges))))])
        for op, function in whole.items():
            table.case({"op": op}, [edges], [function(wide(edges)).astype(edges.dtype)])
    for op in [*near, *whole]:
        table.error({"op": op}, [np.zeros([2], dtype=np.int32)], "dtype")
    for op in [*near, *whole, *exact]:
        table.error({"op": op}, [np.zeros([2], dtype=bool)], "dtype")
    table.error({"op": "clamp", "low": "1", "high": "0"}, [np.zeros([2])], "low")
    table.error({"op": "clamp", "low": "nan", "high": "0"}, [np.zeros([2])], "low")
    table.error({"op": "clamp", "low": "0", "high": "1"}, [np.zeros([2], dtype=bool)], "dtype")
    for _ in range(4 * rounds):
        for name in NUMBERS:
            shape = table.shape(table.integer(0, 5))
            a, b = table.array(name, broadcasting(table, shape)), table.array(name, broadcasting(table, shape))
            if name in INTEGERS:
                zero = np.zeros([], dtype=a.dtype)
                safe = np.where(b == 0, np.ones([], dtype=a.dtype), b)
                table.case({"op": "modulo"}, [a, b], [np.where(b == 0, zero, np.mod(a, safe)).astype(a.dtype)])
                table.error({"op": "power"}, [a, b], "dtype")
            else:
                a, b = np.abs(a) if table.rng.random() < 0.5 else a, np.clip(b, -3, 3).astype(a.dtype)
                exact_power = np.power(wide(a), wide(b))
                table.case({"op": "power"}, [a, b], [(name, exact_power)])
                table.error({"op": "modulo"}, [a, b], "dtype")


# Indices


def indexing(table, rounds):
    for _ in range(25 * rounds):
        name, index = table.pick(list(DTYPES)), table.pick(INTEGERS)
        rank = table.integer(1, 6)
        array = table.array(name, table.shape(rank, most=600))
        axis = table.integer(-rank, rank)
        length = array.shape[axis]
        shape = table.shape(table.integer(0, 4), most=60)
        low = -length if index[0] == "s" else 0
        if length == 0:
            shape = [*shape, 0][: max(len(shape), 1)]
            shape[0] = 0
        indices = table.rng.integers(max(low, -128), max(min(length, 127), 1), size=shape).astype(DTYPES[index])
        positions = np.where(indices.astype(np.int64) < 0, indices.astype(np.int64) + length, indices.astype(np.int64))
        expected = np.take(array, positions, axis=axis) if length else np.zeros(
            [*array.shape[: axis % rank], *shape, *array.shape[axis % rank + 1 :]], dtype=array.dtype)
        if name == "f32" and length:
            np.testing.assert_array_equal(expected, evaluate("Gather", [array, indices.astype(np.int64)], axis=axis))
        table.case({"op": "gather", "axis": axis}, [array, indices], [expected])
        depth = table.integer(1, 20)
        low = -depth if index[0] == "s" else 0
        indices = table.rng.integers(low, depth, size=table.shape(table.integer(0, 4), most=200)).astype(DTYPES[index])
        axis = table.integer(-indices.ndim - 1, indices.ndim + 1)
        hot = np.eye(depth)[np.mod(indices.astype(np.int64), depth)]
        hot = np.moveaxis(hot, -1, axis).astype(np.float32).astype(DTYPES[name])
        table.case({"op": "one-hot", "depth": depth, "axis": axis, "dtype": name}, [indices], [hot])
        lengths = [int(length) for length in table.rng.multinomial(array.shape[0], [0.25] * 4)]
        for along in (0, rank - 1):
            cuts = table.rng.multinomial(array.shape[along], [1 / 3] * 3)
            parts = np.split(array, np.cumsum(cuts)[:-1], axis=along)
            table.case({"op": "split", "axis": along - rank, "lengths": [int(cut) for cut in cuts]}, [array], parts)
        table.case({"op": "split", "axis": 0, "lengths": lengths}, [array], np.split(array, np.cumsum(lengths)[:-1]))
    line = np.arange(5.0)
    for wrong in (5, -6, 2**40, -(2**63)):
        table.error({"op": "gather", "axis": 0}, [line, np.array([0, wrong])], f"element 1 is {wrong}")
        table.error({"op": "one-hot", "depth": 5, "axis": 0, "dtype": "u8"}, [np.array([0, wrong])], f"element 1 is {wrong}")
    table.error({"op": "gather", "axis": 0}, [line, np.array([2**64 - 1], dtype=np.uint64)], "indices: element 0")
    table.error({"op": "gather", "axis": 0}, [np.zeros([3, 0]), np.array([3])], "indices: element 0 is 3")
    table.error({"op": "gather", "axis": 1}, [np.zeros([3, 0]), np.array([0])], "empty")
    table.error({"op": "one-hot", "depth": 0, "axis": 0, "dtype": "u8"}, [np.array([0])], "empty")
    table.error({"op": "gather", "axis": 0}, [line, line], "indices")
    table.error({"op": "gather", "axis": 1}, [line, np.array([0])], "axis")
    table.error({"op": "gather", "axis": 0}, [np.float64(0), np.array([0])], "axis")
    table.error({"op": "gather", "axis": 0}, [np.zeros([1] * 8), np.zeros([1, 1], dtype=np.int64)], "tensor_rank", "too-large")
    table.error({"op": "split", "axis": 0, "lengths": [2, 2]}, [line], "lengths")
    table.error({"op": "split", "axis": 0, "lengths": []}, [line], "lengths")
    table.error({"op": "split", "axis": 1, "lengths": [5]}, [line], "axis")
    table.error({"op": "split", "axis": 0, "lengths": [5] + [0] * 10_000}, [line], "tensor_count", "too-large")


# Several axes, order, sums


def reductions(table, rounds):
    names = {"reduce-sum": np.sum, "reduce-mean": np.mean, "reduce-max": np.max, "reduce-min": np.min,
             "reduce-l2": lambda x, **how: np.sqrt(np.sum(x * x, **how))}
    for _ in range(5 * rounds):
        for name in DTYPES:
            for op, function in names.items():
                rank = table.integer(0, 7)
                array = table.array(name, table.shape(rank), special=table.rng.random() < 0.4)
                chosen = [int(axis) for axis in table.rng.permutation(rank)[: table.integer(0, rank + 1)]]
                axes = [axis - (rank if table.rng.random() < 0.5 else 0) for axis in chosen]
                keep = bool(table.integer(0, 2))
                call = {"op": op, "axes": axes, "keep_axes": keep}
                how = {"axis": tuple(chosen) or None, "keepdims": keep}
                extreme = op in ("reduce-max", "reduce-min")
                reduced = [array.shape[axis] for axis in chosen] or array.shape
                if (name == "boolean" and op == "reduce-sum") or (name not in FLOATS and op in ("reduce-mean", "reduce-l2")):
                    table.error(call, [array], "dtype")
                elif extreme and 0 in reduced:
                    table.error(call, [array], "empty")
                elif extreme and name == "bf16":
                    table.case(call, [array], [(name, function(wide(array), **how))])
                elif extreme:
                    table.case(call, [array], [(name, wide(function(array, **how))) if name in FLOATS else function(array, **how)])
                elif name in FLOATS:
                    exact = np.asarray(function(wide(array), **how), dtype=np.float64)
                    table.case(call, [array], [(name, exact, spread(array, **how) if op != "reduce-l2" else 1.0)])
                else:
                    table.case(call, [array], [np.asarray(np.sum(array, dtype=array.dtype, **how))])
                if rank and chosen and name == "f32" and op == "reduce-sum" and array.size and np.isfinite(array).all():
                    np.testing.assert_allclose(
                        evaluate("ReduceSum", [wide(array), np.array(axes)], keepdims=int(keep)), function(wide(array), **how),
                        rtol=1e-9, atol=1e-9)
    square = np.zeros([2, 3], dtype=np.float32)
    table.error({"op": "reduce-sum", "axes": [0, -2], "keep_axes": True}, [square], "axes[1]")
    table.error({"op": "reduce-sum", "axes": [2], "keep_axes": True}, [square], "axes[0]")
    table.error({"op": "reduce-max", "axes": [0], "keep_axes": True}, [np.float64(0)], "axes[0]")


def spread(array, **how):
    """How much larger what is added up is than the sum, at most."""
    finite = np.where(np.isfinite(wide(array)), np.abs(wide(array)), 0)
    return max(1.0, float(np.max(np.sum(finite, **how), initial=1.0)))


def orders(table, rounds):
    for _ in range(4 * rounds):
        for name in DTYPES:
            rank = table.integer(1, 6)
            shape = table.shape(rank)
            if table.rng.random() < 0.1:
                shape, rank = table.pick([[2, 20_000], [20_000, 2], [3, 40, 70]]), None
                rank = len(shape)
            axis = table.integer(-rank, rank)
            array = table.array(name, shape, special=table.rng.random() < 0.5)
            descending = bool(table.integer(0, 2))
            ranks = ranked(array, axis)
            order = np.argsort(-ranks if descending else ranks, axis=axis, kind="stable")
            call = {"op": "sort", "axis": axis, "descending": descending}
            table.case(call, [array], [np.take_along_axis(array, order, axis=axis), order.astype(np.int64)])
            if array.shape[axis]:
                keep = bool(table.integer(0, 2))
                nan = np.isnan(wide(array)) if name in FLOATS else np.zeros(shape, dtype=bool)
                found = np.argmin(np.where(nan, -1, ranks), axis=axis)
                found = np.expand_dims(found, axis) if keep else found
                table.case({"op": "argmin", "axis": axis, "keep_axis": keep}, [array], [found.astype(np.int64)])
            exclusive, reverse = bool(table.integer(0, 2)), bool(table.integer(0, 2))
            call = {"op": "cumulative-sum", "axis": axis, "exclusive": exclusive, "reverse": reverse}
            if name == "boolean":
                table.error(call, [array], "dtype")
                continue
            array = table.array(name, shape, special=False)
            terms = np.flip(wide(array) if name in FLOATS else array, axis) if reverse else (wide(array) if name in FLOATS else array)
            sums = np.cumsum(terms, axis=axis, dtype=terms.dtype)
            if exclusive:
                first = np.zeros_like(np.take(sums, [0] if shape[axis] else [], axis=axis))
                sums = np.concatenate([first, sums], axis=axis).take(np.arange(shape[axis]), axis=axis)
            sums = np.flip(sums, axis) if reverse else sums
            scale = spread(array, axis=axis) if name in FLOATS else 1.0
            table.case(call, [array], [(name, sums, scale) if name in FLOATS else sums.astype(array.dtype)])
            if name in FLOATS:
                array = table.array(name, shape, special=table.rng.random() < 0.2)
                exact = wide(array)
                most = np.max(exact, axis=axis, keepdims=True, initial=-np.inf)
                expected = exact - most - np.log(np.sum(np.exp(exact - most), axis=axis, keepdims=True))
                table.case({"op": "log-softmax", "axis": axis}, [array], [(name, expected)])
                if exact.size and np.isfinite(exact).all():
                    np.testing.assert_allclose(expected, evaluate("LogSoftmax", [exact], axis=axis), rtol=1e-9, atol=1e-9)
    square = np.zeros([2, 2], dtype=np.float32)
    table.error({"op": "sort", "axis": 2, "descending": False}, [square], "axis")
    table.error({"op": "sort", "axis": 0, "descending": False}, [np.float32(0)], "axis")
    table.error({"op": "argmin", "axis": 1, "keep_axis": True}, [square[:, :0]], "empty")
    table.error({"op": "log-softmax", "axis": 0}, [square.astype(np.int32)], "dtype")
    table.error({"op": "cumulative-sum", "axis": -3, "exclusive": False, "reverse": False}, [square], "axis")


# Matrices and boxes


def products(table, rounds):
    for _ in range(12 * rounds):
        for name in NUMBERS:
            m, k, n = (int(table.pick([0, 1, 1, 2, 3, 4, 5, 8, 17, 33, 70])) for _ in range(3))
            if table.rng.random() < 0.1:
                m, k, n = table.pick([[3, 300, 1_030], [260, 270, 5], [6, 600, 1], [1, 520, 40]])
            batch = table.shape(table.integer(0, 4), most=12)
            a = table.array(name, broadcasting(table, batch) + [m, k], special=False)
            b = table.array(name, broadcasting(table, batch) + [k, n], special=False)
            if table.rng.random() < 0.15:
                a = table.array(name, [k], special=False)
            if table.rng.random() < 0.15:
                b = table.array(name, [k], special=False)
            if name in INTEGERS:
                table.case({"op": "matmul"}, [a, b], [np.matmul(a, b)])
                continue
            exact = np.matmul(wide(a), wide(b))
            scale = max(1.0, float(np.max(np.matmul(np.abs(wide(a)), np.abs(wide(b))), initial=1.0)))
            table.case({"op": "matmul"}, [a, b], [(name, exact, scale)])
            if name == "f64" and exact.size and k:
                np.testing.assert_allclose(exact, evaluate("MatMul", [a, b]), rtol=1e-9, atol=1e-9)
    for name in FLOATS:
        a, b = (np.array(values).astype(DTYPES[name]) for values in ([[np.inf, 1.0], [np.nan, 2.0]], [[1.0, 0.0], [3.0, 4.0]]))
        table.case({"op": "matmul"}, [a, b], [(name, np.matmul(wide(a), wide(b)))])
    for shapes in ([[2, 3], [2, 3]], [[2, 3, 3], [3, 3, 3]], [[3], [2, 3]], [[], [3]]):
        table.error({"op": "matmul"}, [np.zeros(shape) for shape in shapes], "")
    table.error({"op": "matmul"}, [np.zeros([2, 2]), np.zeros([2, 2], dtype=np.float32)], "dtype")
    table.error({"op": "matmul"}, [np.zeros([2, 2], dtype=bool)] * 2, "dtype")


def suppressed(boxes, scores, overlap, least, maximum):
    """`torchvision.ops.nms`, in the precision of the boxes."""
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    areas = (high - low).prod(axis=1)
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        if not scores[index] > least or len(kept) == maximum:
            continue
        sides = np.minimum(high[kept], high[index]) - np.maximum(low[kept], low[index])
        both = np.maximum(sides, 0).prod(axis=1)
        if not (both / (areas[kept] + areas[index] - both) > overlap).any():
            kept.append(int(index))
    return np.array(kept + [-1] * (maximum - len(kept)), dtype=np.int64), np.int64(len(kept))


def boxes(table, rounds):
    for _ in range(10 * rounds):
        for name in FLOATS:
            count, maximum = (int(table.pick([0, 1, 2, 7, 60, 400])), int(table.pick([0, 1, 5, 50, 500])))
            corners = table.rng.random([count, 2]) * 20
            array = np.concatenate([corners, corners + table.rng.random([count, 2]) * 12], axis=1)
            if count and table.rng.random() < 0.5:
                swapped = table.rng.random(count) < 0.3
                array[swapped] = array[swapped][:, [2, 3, 0, 1]]
                array[table.integer(0, count), 2] = array[table.integer(0, count), 0]
            array = array.astype(np.float32).astype(DTYPES[name])
            scores = np.round(table.rng.random(count), 2).astype(np.float32).astype(DTYPES[name])
            overlap, least = float(np.float32(table.pick([0.0, 0.3, 0.5, 0.7, 1.0]))), float(np.float32(table.pick([-np.inf, 0.25, 0.9])))
            precise = np.float64 if name == "f64" else np.float32
            expected = suppressed(array.astype(precise), scores.astype(precise), precise(overlap), precise(least), maximum)
            call = {"op": "non-maximum-suppression", "iou_threshold": overlap, "score_threshold": repr(least), "maximum": maximum}
            table.case(call, [array, scores], list(expected))
            if name == "f32" and count and maximum:
                by_evaluator = evaluate(
                    "NonMaxSuppression",
                    [array[None], scores[None, None], np.array([maximum]), np.array([overlap], np.float32), np.array([least], np.float32)])
                np.testing.assert_array_equal(by_evaluator[:, 2], expected[0][: expected[1]])
    call = {"op": "non-maximum-suppression", "iou_threshold": 0.5, "score_threshold": "-inf", "maximum": 3}
    array, scores = np.zeros([2, 4], np.float32), np.zeros([2], np.float32)
    table.case(call, [array, np.array([np.nan, 1.0], np.float32)], [np.array([1, -1, -1]), np.int64(1)])
    table.error({**call, "iou_threshold": 1.5}, [array, scores], "iou-threshold")
    table.error({**call, "score_threshold": "nan"}, [array, scores], "score-threshold")
    table.error(call, [array.T, scores], "boxes")
    table.error(call, [array, scores[:1]], "scores")
    table.error(call, [array.astype(np.int32), scores], "boxes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seed", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="how much of everything (default: 3)")
    arguments = parser.parse_args()
    np.seterr(all="ignore")
    warnings.simplefilter("ignore")
    table = Table(arguments.seed)
    casts(table)
    for make in (scales, normalizations, crops, pads, permutations, slices, joins, reshapes, lanes, pools, comparisons,
                 functions, indexing, reductions, orders, products, boxes):
        make(table, arguments.rounds)
    for _ in range(arguments.rounds):
        arithmetic(table)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "data.bin").write_bytes(table.data)
    versions = {"numpy": np.__version__, "onnx": onnx.__version__}
    document = {"seed": arguments.seed, "versions": versions, "cases": table.cases}
    (arguments.folder / "cases.json").write_text(json.dumps(document))
    print(f"{len(table.cases)} cases, {len(table.data)} bytes, {table.near_ties} nearest ties that the evaluator rounds away")


if __name__ == "__main__":
    main()
