"""Makes the reference table of the tensor operators: fresh random inputs, and results from NumPy and ONNX's evaluator.

It never calls hearth: the host's tests read the folder and compare (`host/src/device/reference_tests.rs`).

    operators.py SEED FOLDER [--rounds N]

FOLDER gets cases.json and data.bin. A case is {"name", "call", "inputs", "outputs"} or, where an error is expected,
{"name", "call", "inputs", "error", "mentions"}. `call` is the operator's name and its parameters, as in wit/operators.wit.
A tensor is {"dtype", "shape", "offset"}, with `offset` the place of its first byte in data.bin. An output also has a
"check": "exact" (the same bits; any NaN for a NaN), {"relative": t} (the values in data.bin are f64; the difference is at
most t times the larger of 1 and the magnitude; a wider t where what was added up is larger than its sum), {"close": t} (at
most t times the magnitude) or {"rounded": t} (the same, but a u8 within 0.5 + t of the f64).

The same seed gives the same table with one version of NumPy and onnx.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx.reference.ops import op_resize

try:
    import cv2
    from PIL import Image
except ImportError:
    # Not in set-up's environment, but scripts/gpu-check makes a table with the installed Python packages.
    cv2 = None

from operator_borders import borders
from operator_edges import edges
from operator_functions import boxes, comparisons, functions, indexing, ordered, orders, products, reductions
from operator_table import DTYPES, FLOATS, INTEGERS, NAMES, NUMBERS, ROUNDINGS, Table, broadcasting, cast_to, evaluate, ranked, to_bf16, wide


def in_f64(coefficients):
    """The evaluator's cubic coefficients with `A` as a Python float: it passes a NumPy f32, which makes them all f32."""
    return lambda ratio, scale=None, A=-0.75: coefficients(ratio, scale, float(A))


op_resize._cubic_coeffs = in_f64(op_resize._cubic_coeffs)
op_resize._cubic_coeffs_antialias = in_f64(op_resize._cubic_coeffs_antialias)


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


def arithmetic(table, rounds):
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
            for round_ in range(4 * rounds):
                shape = table.shape(table.rank(), zeros=round_ > 0)
                a_shape, b_shape = broadcasting(table, shape), broadcasting(table, shape)
                a, b = (table.array(name, own, largest=round_ % 2 == 0) for own in (a_shape, b_shape))
                if name == "boolean" and op not in ("minimum", "maximum"):
                    table.error({"op": op}, [a, b], "boolean")
                elif name in INTEGERS and op == "divide":
                    table.case({"op": op}, [a, b], [divided(a, b)])
                elif name in FLOATS and op in ("minimum", "maximum"):
                    # The sign of a zero is left open.
                    table.case({"op": op}, [a, b], [(name, wide(function(a, b)), "close")])
                else:
                    # Of floats too: a sum, difference, product or quotient is rounded once (IEEE 754).
                    table.case({"op": op}, [a, b], [function(a, b)])
    for shapes in ([[200, 3], [3]], [[3], [200, 3]], [[40, 5, 3], [3]], [[300], []], [[50, 1], [1, 70]], [[9, 8, 3], [9, 1, 3]]):
        a, b = (table.array("f32", shape) for shape in shapes)
        table.case({"op": "subtract"}, [a, b], [("f32", wide(a - b))])
    table.error({"op": "add"}, [np.zeros([2, 3]), np.zeros([2])], "b:")
    table.error({"op": "add"}, [np.zeros([0]), np.zeros([2])], "broadcast")
    table.error({"op": "add"}, [np.zeros([2]), np.zeros([2], dtype=np.float32)], "dtype")
    table.error({"op": "add"}, [np.zeros([2])], "two tensors")


# Conversions


def casts(table):
    for source in DTYPES:
        for target in DTYPES:
            array = table.array(source, table.shape(table.rank(), zeros=False), largest=True)
            table.case({"op": "cast", "dtype": target}, [array], [cast_to(array, target)])
        nothing = array.reshape([-1])[:0]
        table.case({"op": "cast", "dtype": target}, [nothing], [cast_to(nothing, target)])
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
        if round_ % 8 == 0:
            # So wide that rows are computed in parts.
            source[1], target[1] = table.pick([[300, 600], [700, 175], [130, 520]])
        batch = table.pick([[], [], [2], [1, 3], [0], [2, 1, 2], [1, 2, 1, 2], [1, 1, 2, 1, 2]])
        channels = int(table.pick([1, 1, 2, 3, 3, 3, 4, 5]))
        shape = batch + ([*source, channels] if layout == "hwc" else [channels, *source])
        for interpolation in ("nearest", "bilinear", "bicubic", "area"):
            rounding = {"rounding": table.pick(list(ROUNDINGS))} if interpolation == "nearest" else {}
            name = table.pick(["u8", "u8", "f32", "f16", "bf16", "f64"])
            antialias = bool(round_ % 2) and interpolation in ("bilinear", "bicubic")
            coordinates = table.pick(["half-pixel", "half-pixel", "pytorch-half-pixel", "align-corners", "asymmetric"])
            call = {
                "op": "resize",
                "height": target[0],
                "width": target[1],
                "layout": layout,
                "interpolation": interpolation,
                **rounding,
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
    table.error({**whole, "interpolation": "nearest", "rounding": "floor", "antialias": True}, [image], "antialias")
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
        return nearest(table, array, axis, length, call["rounding"], coordinates)
    if array.size == 0:
        return np.zeros([length if other == axis else dim for other, dim in enumerate(array.shape)])
    widens = call["antialias"] and source > length
    mode = {"bilinear": "linear", "bicubic": "cubic"}[interpolation]
    result = np.moveaxis(np.tensordot(weights(source, length, coordinates, mode, widens), array, axes=([1], [axis])), 0, axis)
    # The evaluator rounds the places of samples: far from the edge by more than f64 is checked to, and where a place is a whole
    # one it may take other neighbours than the weights are for.
    theirs = by_evaluator(array, axis, length, coordinates, mode=mode, antialias=int(widens), exclude_outside=int(widens))
    places = [place(x, source, length, coordinates) for x in range(length)]
    near = [x for x, (above, below) in enumerate(places) if widens or above % below]
    ours, theirs = (np.take(own, near, axis=axis) for own in (result, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * max(1.0, np.abs(array).max()))
    return result


def place(x, source, length, coordinates):
    """The source coordinate of a target sample, as a fraction."""
    return {
        "half-pixel": ((2 * x + 1) * source - length, 2 * length),
        "pytorch-half-pixel": ((2 * x + 1) * source - length, 2 * length),
        "align-corners": (x * (source - 1), max(length - 1, 1)),
        "asymmetric": (x * source, length),
    }[coordinates]


def weights(source, length, coordinates, mode, widens):
    """The weight of each source sample in each target sample; places are exact until the distances are computed."""
    scale = source / length if widens else 1.0
    result = np.zeros([length, source])
    for x in range(length):
        above, below = place(x, source, length, coordinates)
        whole, part = above // below, above % below / below
        samples = np.arange(source) if widens else np.arange(whole - 1, whole + 3)
        distance = np.abs(samples - whole - part) / scale
        far, near = -0.75 * (((distance - 5) * distance + 8) * distance - 4), (1.25 * distance - 2.25) * distance**2 + 1
        cubic = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
        own = np.maximum(1 - distance, 0) if mode == "linear" else cubic
        np.add.at(result[x], np.clip(samples, 0, source - 1), own / own.sum())
    return result


def by_evaluator(array, axis, length, coordinates, **attributes):
    sizes = np.array([length if other == axis else dim for other, dim in enumerate(array.shape)], dtype=np.int64)
    names = {"pytorch-half-pixel": "pytorch_half_pixel", "half-pixel": "half_pixel", "align-corners": "align_corners"}
    mode = names.get(coordinates, coordinates)
    return evaluate("Resize", [array, None, None, sizes], coordinate_transformation_mode=mode, cubic_coeff_a=-0.75, **attributes)


def nearest(table, array, axis, length, rounding, coordinates):
    """In exact fractions, because the evaluator's ties depend on rounding; elsewhere it must agree."""
    source = array.shape[axis]
    indices, near = [], []
    for x in range(length):
        above, below = place(x, source, length, coordinates)
        whole, twice = above // below, 2 * (above % below)
        behind = {"prefer-floor": twice > below, "prefer-ceil": twice >= below, "floor": False, "ceil": twice > 0}[rounding]
        indices.append(min(max(whole + behind, 0), source - 1))
        # Exactly at a sample, the evaluator may take the one next to it, and half-way between two, the other one.
        near.append(twice == 0 or (twice == below and rounding.startswith("prefer")))
    expected = np.take(array, indices, axis=axis)
    positions = np.arange(source, dtype=np.float64)
    found = {"the evaluator": by_evaluator(positions, 0, length, coordinates, mode="nearest", nearest_mode=ROUNDINGS[rounding])}
    line = positions.astype(np.float32)[None, :]
    if cv2 and (rounding, coordinates) == ("floor", "asymmetric"):
        found["OpenCV"] = cv2.resize(line, (length, 1), interpolation=cv2.INTER_NEAREST)[0]
    if cv2 and (rounding, coordinates) == ("prefer-ceil", "half-pixel"):
        found["Pillow"] = np.asarray(Image.fromarray(line).resize((length, 1), Image.Resampling.NEAREST))[0]
    for who, places in found.items():
        for index, (ours, theirs, tie) in enumerate(zip(indices, places, near, strict=True)):
            if ours != theirs:
                assert tie, f"nearest {rounding} {coordinates} {source} -> {length} at {index}: {ours} but {who} has {theirs}"
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
    for round_ in range(6 * rounds):
        for name in DTYPES:
            rank = table.rank(1)
            shape = table.shape(rank, zeros=round_ > 0)
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
    for round_ in range(26 * rounds):
        layout = table.pick(["hwc", "chw"])
        rank = table.rank(3)
        name = list(DTYPES)[round_ % len(DTYPES)]
        some = round_ < 26
        array = table.array(name, table.shape(rank, zeros=not some))
        axes = [rank - 3, rank - 2] if layout == "hwc" else [rank - 2, rank - 1]
        window = []
        for axis in axes:
            start = table.integer(0, array.shape[axis] + (0 if some else 1))
            window.append((start, table.integer(int(some), array.shape[axis] - start + 1)))
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
    for round_ in range(9 * rounds):
        for mode in ("constant", "edge", "reflect"):
            name = list(DTYPES)[round_ % len(DTYPES)]
            rank = round_ % 9
            shape = table.shape(rank, most=500, zeros=round_ >= 13)
            array = table.array(name, shape)
            most = [max(dim - 1, 0) if mode == "reflect" else (3 if dim or mode == "constant" else 0) for dim in shape]
            skip = [table.rng.random() < (0.4 if rank < 6 else 0.75) for _ in shape]
            if rank > 5:
                most = [min(length, 2) for length in most]
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
    # An empty axis can be mirrored if nothing is added to it.
    empty = np.zeros([0, 3], np.int16)
    call = {"op": "pad", "before": [0, 1], "after": [0, 2], "mode": "reflect"}
    table.case(call, [empty], [np.zeros([0, 6], np.int16)])
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
    shapes = [table.shape(rank, zeros=turn > 0) for turn in range(3 * rounds) for rank in range(9)]
    shapes += [[33, 40, 2], [9, 2, 41], [17, 17], [64, 64], [8, 40], [2_100, 2], [4, 1_030], [2, 35, 34, 3]]
    shapes += [[40, 30, 3], [3, 40, 30], [2, 50, 4], [70, 65], [2, 70, 33, 2], [5, 2, 3, 4], [1200, 3], [3, 1200], [2, 2, 600]]
    for index, shape in enumerate(shapes):
        name = list(DTYPES)[index % len(DTYPES)]
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
    for round_ in range(40 * rounds):
        rank, some = round_ % 9, round_ < 26
        array = table.array(list(DTYPES)[round_ % len(DTYPES)], table.shape(rank, zeros=not some))
        axes = table.rng.permutation(rank)[: table.integer(0, rank + 1)]
        ranges, index = [], [slice(None)] * rank
        for axis in axes:
            dim = array.shape[axis]
            start, end = (int(table.pick([table.integer(-dim - 3, dim + 4), far, -far - 1])) for _ in range(2))
            step = int(table.pick([1, 1, 1, 2, 3, -1, -2, far, -far - 1]))
            if some:
                start, end, step = 0, far, int(table.pick([1, 2, 3]))
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
    for round_ in range(26 * rounds):
        name = list(DTYPES)[round_ % len(DTYPES)]
        rank, some = 1 + round_ % 8, round_ < 13
        shape = table.shape(rank, most=1_000, zeros=not some)
        axis = table.integer(-rank, rank)
        parts = []
        for _ in range(2 if some else table.integer(1, 5)):
            own = list(shape)
            own[axis] = table.integer(int(some), 6)
            parts.append(table.array(name, own))
        expected = np.concatenate(parts, axis=axis)
        if name == "f32":
            np.testing.assert_array_equal(expected, evaluate("Concat", parts, axis=axis))
        table.case({"op": "concat", "axis": axis}, parts, [expected])
        rank = round_ % 8
        shape = table.shape(rank, most=1_000, zeros=not some)
        axis = table.integer(-rank - 1, rank + 1)
        parts = [table.array(name, shape) for _ in range(2 if some else table.integer(1, 5))]
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
    for round_ in range(5 * rounds):
        for name in DTYPES:
            rank = 1 + round_ % 8
            shape = table.shape(rank, zeros=round_ > 0)
            if round_ > 7 and table.rng.random() < 0.25:
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
        table.case({"op": "softmax", "axis": axis}, [array], [(name, softmax(exact, axis), "close")])
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


def pools(table, rounds):
    for round_ in range(3 * rounds):
        for name in FLOATS:
            for mask_name in DTYPES:
                batch, tokens, features = (int(table.pick([0, 1, 2, 3, 9])), int(table.pick([0, 1, 2, 7, 33])),
                                           int(table.pick([0, 1, 3, 65, 300])))
                if round_ == 0:
                    batch, tokens, features = 2, 5, 3
                array = table.array(name, [batch, tokens, features], special=False)
                mask = table.rng.integers(0, 2, size=[batch, tokens])
                if mask_name in FLOATS and table.rng.random() < 0.5:
                    mask = table.rng.random([batch, tokens]) * mask
                mask = mask.astype(np.float32).astype(DTYPES[mask_name]) if mask_name == "bf16" else mask.astype(DTYPES[mask_name])
                weights = wide(mask)
                sums = np.einsum("btf,bt->bf", wide(array), weights)
                expected = sums / np.maximum(weights.sum(axis=1), 1e-9)[:, None]
                if table.rng.random() < 0.5:
                    # Masked elements do not count, whatever their values.
                    array = np.where((weights == 0)[:, :, None], np.array(table.pick([np.nan, np.inf])).astype(array.dtype), array)
                table.case({"op": "masked-mean-pool"}, [array, mask], [(name, expected)])
    array, mask = np.zeros([2, 3, 4], dtype=np.float32), np.zeros([2, 3], dtype=np.int64)
    call = {"op": "masked-mean-pool"}
    table.error(call, [array, mask.T], "mask")
    table.error(call, [array[0], mask], "input")
    table.error(call, [array.astype(np.int8), mask], "input")
    table.error(call, [array], "two tensors")


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
    arithmetic(table, arguments.rounds)
    edges(table, along)
    borders(table, resized, along, ordered)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "data.bin").write_bytes(table.data)
    versions = {"numpy": np.__version__, "onnx": onnx.__version__}
    document = {"seed": arguments.seed, "versions": versions, "cases": table.cases}
    (arguments.folder / "cases.json").write_text(json.dumps(document))
    print(f"{len(table.cases)} cases, {len(table.data)} bytes, {table.near_ties} nearest ties that others round away")


if __name__ == "__main__":
    main()
