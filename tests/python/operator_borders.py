"""Cases exactly at borders, for operators.py: between two numbers of a narrow type, of parts that work is cut into, of filters,
and of shapes without elements."""

import numpy as np

from operator_table import DTYPES, FLOATS, INTEGERS, ROUNDINGS, Hollow, cast_to, wide


def ties(table):
    """Casts of the middles between two numbers of a narrow type, and of numbers some units of f32 and less next to them."""
    for target, most in (("f16", 0x7C00), ("bf16", 0x7F80)):
        known = [0, 1, 2, 0x3FE, 0x3FF, 0x400, 0x401, 0x7E, 0x7F, 0x80, 0x81, most - 2, most - 1]
        bits = np.unique(np.concatenate([known, table.rng.integers(0, most, 200)]))
        numbers = [wide(own.astype(np.uint16).view(DTYPES[target])) for own in (bits, bits + 1)]
        # The number after the largest one, if there were no infinity.
        above = np.where(np.isfinite(numbers[1]), numbers[1], 2 * numbers[0] - wide((bits - 1).astype(np.uint16).view(DTYPES[target])))
        middle = (numbers[0] + above) / 2
        unit = np.spacing(middle.astype(np.float32)).astype(np.float64)
        steps = np.array([-3, -2, -1, -0.5, 0, 0.5, 1, 2, 3])
        near = (middle[:, None] + unit[:, None] * steps).ravel()
        sign = np.where(table.rng.random(near.shape) < 0.5, -1.0, 1.0)
        single = (sign * near).astype(np.float32)
        table.case({"op": "cast", "dtype": target}, [single], [cast_to(single, target)])
        for part in (0, 2.0**-46, -(2.0**-46)):
            double = sign * near * (1 + part)
            table.case({"op": "cast", "dtype": target}, [double], [cast_to(double, target)])
    for name in ("u64", "s64", "u32", "s32"):
        bits = 8 * DTYPES[name].itemsize - (name[0] == "s")
        numbers = []
        for power in range(9, bits):
            middle = (1 << power) + (2 * table.integer(0, 128) + 1 << power - 8)
            units = [1 << max(power - digits, 0) for digits in (8, 22, 23, 24, 25, 52, 53)]
            numbers += [middle + way * unit for unit in [0, 1, *units] for way in (-1, 1)]
        whole = np.array([number for number in numbers if number < 1 << bits], dtype=DTYPES[name])
        for target in FLOATS:
            table.case({"op": "cast", "dtype": target}, [whole], [cast_to(whole, target)])
            if name[0] == "s":
                table.case({"op": "cast", "dtype": target}, [-whole], [cast_to(-whole, target)])


def spots(table, resized):
    """Pictures of one bright pixel each, whose results are weights, and rows whose places have many different fractions."""
    kinds = [("bilinear", False), ("bilinear", True), ("bicubic", False), ("bicubic", True), ("area", False)]
    for interpolation, antialias in kinds:
        for coordinates in ("half-pixel", "pytorch-half-pixel", "align-corners", "asymmetric"):
            for name in ("f64", "f32", table.pick(["f16", "bf16", "u8"])):
                source, target = ([int(table.pick([1, 2, 5, 9, 16, 31])) for _ in range(2)] for _ in range(2))
                array = np.zeros([6, *source, int(table.pick([1, 3]))])
                for image in array:
                    image[table.integer(0, source[0]), table.integer(0, source[1]), 0] = {"u8": 255, "f16": 1024, "f64": 256}.get(name, 2**20)
                scaled(table, resized, array.astype(DTYPES[name]), target, interpolation, coordinates, antialias)
        # Not divisible by each other: places with many different fractions.
        for source, target in ((97, 301), (203, 311), (301, 67), (256, 8), (1200, 12)):
            array = table.array("f64", [1, source, 1], special=False)
            scaled(table, resized, array, [1, target], interpolation, "half-pixel", antialias)
    for name in ("u8", "f32"):
        for interpolation in ("nearest", "bilinear", "bicubic", "area"):
            array = table.array(name, [3, 1_100, 3], special=False)
            scaled(table, resized, array, [2, table.pick([600, 1_500])], interpolation, "half-pixel", False,
                   table.pick(list(ROUNDINGS)) if interpolation == "nearest" else None)


def scaled(table, resized, array, target, interpolation, coordinates, antialias, rounding=None):
    call = {"op": "resize", "height": target[0], "width": target[1], "layout": "hwc", "interpolation": interpolation,
            "rounding": rounding, "coordinates": coordinates, "antialias": antialias}
    table.case(call, [array], [resized(table, call, array)])


def between(table, resized):
    """Nearest samples of places half-way between two, exactly at one and just next to it, up and down."""
    sides = [(4, 2), (3, 9), (2, 3), (4, 3), (3, 2), (2, 4), (1, 5), (7, 1), (5, 5), (31, 12), (12, 31), (6, 4), (9, 3)]
    for rounding in ROUNDINGS:
        for coordinates in ("half-pixel", "pytorch-half-pixel", "align-corners", "asymmetric"):
            for index, (source, target) in enumerate(sides):
                other = sides[(index + 1 + table.integer(0, len(sides) - 1)) % len(sides)]
                name = table.pick(["u8", "f32", "f16", "bf16", "f64"])
                array = table.array(name, [source, other[0], int(table.pick([1, 3]))])
                scaled(table, resized, array, [target, other[1]], "nearest", coordinates, False, rounding)
            for source, target in ((97, 301), (203, 311), (301, 67), (1_100, 1_501)):
                array = table.array("u8", [1, source, 1])
                scaled(table, resized, array, [1, target], "nearest", coordinates, False, rounding)


def shifted(table, along, ordered):
    """Lanes whose elements are all far from 0, on either side of it."""
    for name in FLOATS:
        for shift in (-1000.0, 1000.0):
            for shape, axis in (([19], 0), ([2, 5, 70], 1)):
                array = (table.rng.standard_normal(shape) * table.pick([1.0, 8.0]) + shift).astype(np.float32).astype(DTYPES[name])
                along(table, name, array, axis)
                ordered(table, name, array, axis, *(bool(table.integer(0, 2)) for _ in range(3)))


def extremes(table):
    """The largest and smallest of elements on one side of 0, and of the least and greatest possible elements."""
    for name in [*INTEGERS, *FLOATS]:
        info = None if name in FLOATS else np.iinfo(DTYPES[name])
        low, high = (-np.inf, np.inf) if info is None else (info.min, info.max)
        small = [[2, 3], [high, high], [low, low]] + ([[-5, -2]] if name[0] != "u" else [])
        for values in small:
            for shape in ([2, table.pick([1, 3, 40])], [2, 5, 3]):
                array = np.broadcast_to(np.array(values).astype(DTYPES[name]).reshape([2] + [1] * (len(shape) - 1)), shape).copy()
                for op, function in {"reduce-max": np.max, "reduce-min": np.min}.items():
                    for axis in {0, table.integer(0, array.ndim)}:
                        expected = function(wide(array), axis=axis) if name in FLOATS else function(array, axis=axis)
                        call = {"op": op, "axes": [axis], "keep_axes": False}
                        table.case(call, [array], [expected.astype(array.dtype)])


def chosen(table):
    """As many elements of a lane as are sorted at once, one less and one more, in production and in `cargo xtask mutants`."""
    for length, counts in ((300, (15, 16, 17, 64)), (16_500, (16_384, 16_385))):
        for k in counts:
            array, largest = table.array("u16", [length]), bool(table.integer(0, 2))
            order = np.argsort(-array.astype(np.int64) if largest else array, kind="stable")[:k]
            table.case({"op": "top-k", "k": k, "axis": 0, "largest": largest}, [array], [array[order], order.astype(np.int64)])


def masks(table):
    """Weights whose sum is about the least that is divided by, and less."""
    for name in ("f32", "f64"):
        for weight in (1e-11, 1.6e-10, 3.35e-10, 3.4e-10, 1e-8):
            array, mask = table.array("f64", [2, 3, 5], special=False), np.full([2, 3], weight, DTYPES[name])
            sums = np.maximum(wide(mask).sum(axis=1), 1e-9)
            expected = np.einsum("btf,bt->bf", array, wide(mask)) / sums[:, None]
            table.case({"op": "masked-mean-pool"}, [array, mask], [("f64", expected)])


def logarithms(table):
    """Just below the root of two, where the last coefficient of a polynomial about 1 matters most."""
    line = np.linspace(1.39, 1.41421, 3001).astype(np.float32)
    table.case({"op": "log"}, [line], [("f32", np.log(wide(line)), ("close", 0.012))])


def bounds(table):
    """A number that equals a bound of `clamp` stays, with its sign."""
    for name in FLOATS:
        zeros = np.array([-0.0, 0.0, 1.0, -1.0]).astype(DTYPES[name])
        for low, high in (("0.0", "1.0"), ("-0.0", "1.0"), ("-1.0", "-0.0"), ("-1.0", "0.0")):
            bounded = np.where(zeros < float(low), np.float32(low).astype(DTYPES[name]), zeros)
            bounded = np.where(bounded > float(high), np.float32(high).astype(DTYPES[name]), bounded)
            table.case({"op": "clamp", "low": low, "high": high}, [zeros], [bounded.astype(DTYPES[name])])


def single(table):
    """One element out of many, and arguments that are refused on only one side of an axis."""
    array = table.array("s32", [3, 4, 5])
    for step in (1, -1):
        ranges = [{"axis": axis, "start": 2, "end": 2 + step, "step": step} for axis in range(3)]
        table.case({"op": "slice", "ranges": ranges}, [array], [array[2:3, 2:3, 2:3]])
    line = np.arange(3, dtype=np.int16)
    for before, after in (([0], [3]), ([3], [0])):
        table.error({"op": "pad", "before": before, "after": after, "mode": "reflect"}, [line], "mirror")
        table.error({"op": "pad", "before": before, "after": after, "mode": "edge"}, [line[:0]], "no edge")
    # As many results as may be asked for at once, but more than the account of the test may hold.
    table.error({"op": "split", "axis": 0, "lengths": [3] + [0] * 9_999}, [line], "", "limit-exceeded")


def products(table):
    """Whole numbers, whose sums are exact, in matrices just as large as the parts that products are cut into, and a little
    larger."""
    sizes = ([2, 5, 1025], [9, 17, 41], [8, 16, 40], [9, 16, 41], [1, 257, 3], [257, 3, 2], [5, 256, 1], [5, 257, 1], [3, 33, 81],
             [17, 1, 2], [4, 7, 9], [5, 7, 9], [4, 1, 1], [1, 1, 9])
    for m, k, n in sizes:
        for name in [*FLOATS, "s16", "u64"]:
            a, b = (table.rng.integers(0 if name[0] == "u" else -2, 3, shape).astype(DTYPES[name]) for shape in ([m, k], [k, n]))
            exact = np.matmul(wide(a), wide(b)) if name in FLOATS else np.matmul(a, b)
            table.case({"op": "matmul"}, [a, b], [exact.astype(DTYPES[name])])


def long(table, along, ordered):
    """Rows and columns of some thousand elements, in every way in which operands of such shapes can meet."""
    far = 2_100 + table.integer(0, 200)
    for steps in np.ndindex(2, 2, 2, 2, 2):
        rows, columns = steps[:2], steps[2:4]
        a, b = ([3 if row else 1, far if column else 1] for row, column in zip(rows, columns, strict=True))
        name = table.pick(["f32", "s16", "u64"])
        a, b = table.array(name, a[1 - steps[4] if a[0] == 1 else 0 :]), table.array(name, b)
        for op, function in {"subtract": np.subtract, "maximum": np.maximum, "less": np.less, "divide": np.divide}.items():
            if name == "f32" and op == "maximum":
                # The sign of a zero is left open.
                table.case({"op": op}, [a, b], [(name, wide(function(a, b)), "close")])
            elif name == "f32" or op != "divide":
                table.case({"op": op}, [a, b], [function(a, b)])
        if name == "f32":
            a, b = np.abs(np.nan_to_num(a)), np.clip(np.nan_to_num(b), -2, 2)
            table.case({"op": "power"}, [a, b], [("f32", np.power(wide(a), wide(b)), "close")])
        condition, a, b = (table.array(own, [3 if row else 1, far if step else 1])
                           for own, row, step in zip(["boolean", name, name], rows + (1,), steps[2:], strict=True))
        table.case({"op": "select"}, [condition, a, b], [np.where(condition, a, b)])
    for shape in ([far], [2, far], [far, 2], [1, far, 3], [far, 1, 1, 9]):
        for axis in range(len(shape)):
            name = table.pick(FLOATS)
            if shape[axis] != 1 and np.prod(shape) < 8_000:
                array = table.array(name, shape, special=False)
                along(table, name, array, axis)
                ordered(table, name, array, axis, *(bool(table.integer(0, 2)) for _ in range(3)))
            array = table.array(name, shape, special=False)
            for op, function in {"reduce-sum": np.sum, "reduce-max": np.max}.items():
                scale = max(1.0, float(np.abs(wide(array)).sum(axis=axis).max()))
                table.case({"op": op, "axes": [axis], "keep_axes": True}, [array],
                           [(name, function(wide(array), axis=axis, keepdims=True), scale if op == "reduce-sum" else 1.0)])
            array = table.array(table.pick(["u8", "s16", "f32", "f64"]), shape)
            for step in (2, 40, 300, -1, -3):
                ranges = [{"axis": axis, "start": 1 if step > 0 else -2, "end": 2**62 if step > 0 else -(2**62), "step": step}]
                index = [slice(None)] * len(shape)
                index[axis] = slice(1 if step > 0 else -2, None, step)
                table.case({"op": "slice", "ranges": ranges}, [array], [array[tuple(index)]])
            places = table.rng.integers(0, shape[axis], table.pick([[5], [3, 40]]) if np.prod(shape) < 8_000 else [2])
            table.case({"op": "gather", "axis": axis}, [array, places], [np.take(array, places, axis=axis)])
            cuts = np.sort(table.rng.integers(0, shape[axis] + 1, 2))
            parts = np.split(array, cuts, axis=axis)
            table.case({"op": "split", "axis": axis, "lengths": [part.shape[axis] for part in parts]}, [array], parts)
            table.case({"op": "concat", "axis": axis}, parts, [array])
            scale, offset = (table.rng.standard_normal(shape[axis]).astype(np.float32) for _ in range(2))
            spread = [-1 if own == axis else 1 for own in range(len(shape))]
            small = table.array("s8", shape)
            table.case({"op": "normalize", "axis": axis, "scale": scale.tolist(), "offset": offset.tolist()}, [small],
                       [("f32", wide(small) * scale.reshape(spread) + offset.reshape(spread))])
            for mode in ("constant", "edge", "reflect"):
                before = [min(own == axis, dim - 1) * 1 for own, dim in enumerate(shape)]
                after = [min(own != axis, dim - 1) * 1 for own, dim in enumerate(shape)]
                call = {"op": "pad", "before": before, "after": after, "mode": mode}
                call |= {"bits": int(np.float64(7).view(np.uint64))} if mode == "constant" else {}
                how = {"constant_values": 7} if mode == "constant" else {}
                table.case(call, [array], [np.pad(array, list(zip(before, after, strict=True)), mode=mode, **how)])
    for shape in ([2, far, 3], [1, 3, far]):
        array, mask = table.array("f32", shape, special=False), table.rng.random(shape[:2]).astype(np.float32)
        expected = np.einsum("btf,bt->bf", wide(array), wide(mask)) / wide(mask).sum(axis=1)[:, None]
        table.case({"op": "masked-mean-pool"}, [array, mask], [("f32", expected)])
    call = {"op": "non-maximum-suppression", "iou_threshold": 0.5, "score_threshold": "-inf", "maximum": far}
    corners = np.arange(400, dtype=np.float32)[:, None] * 2 + np.array([0, 0, 1, 1], np.float32)
    table.case(call, [corners, np.arange(400, dtype=np.float32)],
               [np.concatenate([np.arange(399, -1, -1), np.full(far - 400, -1)]).astype(np.int64), np.int64(400)])


def hollow(table):
    """Shapes without elements whose other dimensions have the largest size."""
    far = 2**59
    wide_one, tall = Hollow("f64", [0, far]), Hollow("f64", [far, 0])
    for tensor, axis in ((wide_one, 1), (tall, 0)):
        halves = [Hollow("f64", [far // 2 if index == axis else dim for index, dim in enumerate(tensor.shape)]) for _ in range(2)]
        table.case({"op": "split", "axis": axis, "lengths": [far // 2] * 2}, [tensor], halves)
        table.case({"op": "concat", "axis": axis}, halves, [tensor])
        table.case({"op": "permute", "axes": [1, 0]}, [tensor], [Hollow("f64", tensor.shape[::-1])])
        table.case({"op": "add"}, [tensor, Hollow("f64", [1 if dim else 0 for dim in tensor.shape])], [tensor])
        ranges = [{"axis": axis, "start": 1, "end": far, "step": 1}]
        cut = [far - 1 if index == axis else dim for index, dim in enumerate(tensor.shape)]
        table.case({"op": "slice", "ranges": ranges}, [tensor], [Hollow("f64", cut)])
        ranges = [{"axis": axis, "start": far, "end": -far - 1, "step": -1}]
        table.case({"op": "slice", "ranges": ranges}, [tensor], [tensor])
        for op in ("softmax", "log-softmax"):
            table.case({"op": op, "axis": 0}, [tensor], [tensor])
        table.case({"op": "l2-normalize", "axis": 1, "epsilon": 0.0}, [tensor], [tensor])
        table.case({"op": "cumulative-sum", "axis": axis, "exclusive": False, "reverse": True}, [tensor], [tensor])
        table.case({"op": "sort", "axis": 1 - axis, "descending": False}, [tensor], [tensor, Hollow("s64", tensor.shape)])
        table.case({"op": "pad", "before": [0, 0], "after": [0, 0], "mode": "edge"}, [tensor], [tensor])
        for own in (0, 1):
            table.case({"op": "cumulative-sum", "axis": own, "exclusive": True, "reverse": False}, [tensor], [tensor])
        nothing = {"op": "top-k", "k": 0, "axis": axis, "largest": True}
        empty = [0 if index == axis else dim for index, dim in enumerate(tensor.shape)]
        table.case(nothing, [tensor], [Hollow("f64", empty), Hollow("s64", empty)])
    # No pictures of 60,000 columns are resized to 40,000: 200,000 rows of that are just as much as an operator may do at once.
    call = {"op": "resize", "height": 200_000, "width": 40_000, "layout": "hwc", "interpolation": "nearest",
            "rounding": "floor", "coordinates": "asymmetric", "antialias": False}
    pictures = Hollow("u8", [0, 5, 60_000, 1])
    table.case(call, [pictures], [Hollow("u8", [0, 200_000, 40_000, 1])])
    table.error({**call, "height": 200_001}, [pictures], "operator_operations", "too-large")
    table.case({"op": "gather", "axis": 0}, [wide_one, np.zeros([0], np.int64)], [wide_one])
    table.case({"op": "matmul"}, [Hollow("f32", [0, 3]), Hollow("f32", [3, 0])], [Hollow("f32", [0, 0])])


def borders(table, resized, along, ordered):
    ties(table)
    spots(table, resized)
    between(table, resized)
    shifted(table, along, ordered)
    extremes(table)
    chosen(table)
    masks(table)
    logarithms(table)
    bounds(table)
    single(table)
    products(table)
    long(table, along, ordered)
    hollow(table)
