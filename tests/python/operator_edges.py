"""Cases of NaN, infinities, zeros, subnormal and largest numbers in all combinations, for operators.py."""

import ml_dtypes
import numpy as np

from operator_functions import COMPARISONS, closely, functions_of_one, ordered, suppressed
from operator_table import DTYPES, FLOATS, cast_to, wide


def numbers(name):
    info = ml_dtypes.finfo(DTYPES[name])
    listed = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -3.0]
    exact = np.array([info.max, info.min, info.smallest_normal, info.smallest_subnormal]).astype(DTYPES[name])
    return np.concatenate([np.array(listed).astype(DTYPES[name]), exact])


def nothing(table):
    """Rows without elements, for operators whose random rows might have none."""
    empty, flags = np.zeros([2, 0, 3], np.float32), np.zeros([2, 0, 3], bool)
    table.case({"op": "permute", "axes": [2, 0, 1]}, [empty], [empty.transpose(2, 0, 1)])
    table.case({"op": "slice", "ranges": []}, [empty], [empty])
    table.case({"op": "logical-not"}, [flags], [flags])
    for op in ("logical-and", "logical-or"):
        table.case({"op": op}, [flags, flags[:1]], [flags])
    table.case({"op": "select"}, [flags, empty, empty[..., :1]], [empty])
    for functions in functions_of_one():
        for op in functions:
            table.case({"op": op}, [empty], [empty])
    for op in ("add", "subtract", "multiply", "divide", "minimum", "maximum", "power"):
        table.case({"op": op}, [empty, empty[:1]], [empty])
    for op, join in {"stack": np.stack, "concat": np.concatenate}.items():
        table.case({"op": op, "axis": 0}, [empty, empty], [join([empty, empty], axis=0)])
    call = {"op": "pad", "before": [0, 0, 1], "after": [1, 0, 0], "mode": "edge"}
    table.case(call, [empty], [np.zeros([3, 0, 4], np.float32)])
    whole = empty.astype(np.int32)
    table.case({"op": "modulo"}, [whole, whole[:1]], [whole])
    table.case({"op": "clamp", "low": "0.0", "high": "1.0"}, [empty], [empty])
    for op in COMPARISONS:
        table.case({"op": op}, [empty, empty[:1]], [flags])
    for op in ("reduce-sum", "reduce-mean", "reduce-max", "reduce-min", "reduce-l2"):
        table.case({"op": op, "axes": [0], "keep_axes": False}, [empty], [empty[0]])
    table.case({"op": "split", "axis": 0, "lengths": [1, 1]}, [empty], [empty[:1], empty[1:]])
    rows = np.arange(24.0).reshape(6, 4)
    for step in (1, 2, 3):
        ranges = [{"axis": 0, "start": 1, "end": 6, "step": step}]
        table.case({"op": "slice", "ranges": ranges}, [rows], [rows[1:6:step]])
    table.case({"op": "gather", "axis": -1}, [empty, np.array([2, 0])], [empty[..., :2]])
    table.case({"op": "crop", "layout": "hwc", "top": 0, "left": 0, "height": 1, "width": 0}, [empty], [empty[:1]])


def every_rank(table):
    """Rows of every rank, for operators whose random rows might miss one."""
    exact, whole, near = functions_of_one()
    for rank in range(9):
        shape = [2 - axis % 2 for axis in range(rank)]
        a, b = (np.asarray(table.rng.integers(1, 4, shape)).astype(np.float32) for _ in range(2))
        for op, function in COMPARISONS.items():
            table.case({"op": op}, [a, b], [np.asarray(function(a, b))])
        table.case({"op": "select"}, [np.asarray(a < b), a, b], [np.where(a < b, a, b)])
        table.case({"op": "power"}, [a, b], [("f32", np.power(wide(a), wide(b)), "close")])
        table.case({"op": "modulo"}, [a.astype(np.int32), b.astype(np.int32)], [np.mod(a, b).astype(np.int32)])
        table.case({"op": "clamp", "low": "1.5", "high": "2.5"}, [a], [np.clip(a, np.float32(1.5), np.float32(2.5))])
        for op, function in (exact | whole).items():
            table.case({"op": op}, [a], [("f32", wide(np.asarray(function(a))))])
        for op, function in near.items():
            table.case({"op": op}, [a], [("f32", np.asarray(function(wide(a))), *closely(op))])


def dense(table):
    """Functions all along their domains, and casts of small whole numbers."""
    _, _, near = functions_of_one()
    for name in FLOATS:
        for op, function in near.items():
            low, high = {"exp": (-9.5, 11), "log": (1e-3, 40), "sqrt": (0, 50)}.get(op, (-8, 8))
            line = np.linspace(low, high, 4001).astype(DTYPES[name])
            # f32 within some units of the last place: a larger error means a wrong coefficient.
            units = {"exp": 0.03, "log": 0.03, "erf": 0.07, "gelu": 0.15}.get(op, 0.05)
            times = closely(op) if name != "f32" else [units] if op == "gelu" else [("close", units)]
            table.case({"op": op}, [line], [(name, np.asarray(function(wide(line))), *times)])
    # From 4 on the error function is 1, so that sums and differences with it are exact.
    ends = np.array([4, -4, 5, -5, 100, -100], dtype=np.float32)
    table.case({"op": "erf"}, [ends], [np.sign(ends)])
    lengths = np.exp(np.linspace(-100, 88, 4001)).astype(np.float32)
    table.case({"op": "log"}, [lengths], [("f32", np.log(wide(lengths)), ("close", 0.05))])
    # Numbers that would be rounded twice, first to f64: just above the middle of two numbers of the target.
    for name, low in (("u64", 53), ("s64", 53)):
        powers = [(power, place) for power in range(low, 64 if name == "u64" else 63) for place in (24, 8, 11)]
        numbers = [(1 << power) + (1 << (power - place)) + offset for power, place in powers for offset in (-1, 0, 1)]
        whole = np.array(numbers, dtype=DTYPES[name])
        for source in [whole] + ([-whole] if name == "s64" else []):
            for target in FLOATS:
                table.case({"op": "cast", "dtype": target}, [source], [cast_to(source, target)])
    # NaN with the smallest of payloads, which rounding must not make infinite.
    for source, bits in (("f32", np.array([0x7F800001, 0xFF800001], np.uint32)), ("f64", np.array([0x7FF0000000000001], np.uint64)),
                         ("f16", np.array([0x7C01], np.uint16)), ("bf16", np.array([0x7F81], np.uint16))):
        quiet = bits.view(DTYPES[source])
        for target in FLOATS:
            table.case({"op": "cast", "dtype": target}, [quiet], [np.full(quiet.shape, np.nan, DTYPES[target])])
    for name in DTYPES:
        small = np.array([-2, -1, 0, 1, 2, 3] if name[0] != "u" and name != "boolean" else [0, 1, 2, 3]).astype(DTYPES[name])
        for target in DTYPES:
            table.case({"op": "cast", "dtype": target}, [small], [cast_to(small, target)])
    for rank in range(9):
        a, b = (table.rng.random([2 - axis % 2 for axis in range(rank)]) < 0.5 for _ in range(2))
        for op, function in {"logical-and": np.logical_and, "logical-or": np.logical_or}.items():
            table.case({"op": op}, [a, b], [np.asarray(function(a, b))])
        table.case({"op": "logical-not"}, [a], [~np.asarray(a)])
    boxes, scores = np.array([[0, 0, 1, 1]], np.float32), np.array([0.5], np.float32)
    call = {"op": "non-maximum-suppression", "iou_threshold": 1.005, "score_threshold": "0.0", "maximum": 1}
    table.error(call, [boxes, scores], "iou")


def edges(table, along):
    nothing(table)
    every_rank(table)
    for name in FLOATS:
        empty = np.zeros([2, 0, 3], DTYPES[name])
        along(table, name, empty, 0)
        ordered(table, name, empty, 0, descending=False, exclusive=False, reverse=False)
    for op in ("logical-and", "logical-or"):
        table.error({"op": op}, [np.zeros([2], np.uint8), np.zeros([2], bool)], "a: its dtype")
        table.error({"op": op}, [np.zeros([2], bool), np.zeros([2], np.uint8)], "b: its dtype")
    dense(table)
    for name in FLOATS:
        line = numbers(name)
        pairs = [line[:, None], line[None, :]]
        for op, function in {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide}.items():
            table.case({"op": op}, pairs, [function(*pairs)])
        for op, function in {"minimum": np.minimum, "maximum": np.maximum}.items():
            # The sign of a zero is left open.
            table.case({"op": op}, pairs, [(name, wide(function(*pairs)), "close")])
        table.case({"op": "power"}, pairs, [(name, np.power(*map(wide, pairs)), "close")])
        for op, function in COMPARISONS.items():
            table.case({"op": op}, pairs, [function(*pairs)])
        exact, whole, near = functions_of_one()
        for op, function in exact.items():
            result = function(line)
            # The sign of a zero is left open.
            table.case({"op": op}, [line], [(name, wide(result)) if op in ("sign", "relu") else np.asarray(result).astype(line.dtype)])
        for op, function in whole.items():
            table.case({"op": op}, [line], [function(wide(line)).astype(line.dtype)])
        for op, function in near.items():
            table.case({"op": op}, [line], [(name, np.asarray(function(wide(line))), *closely(op))])
        for target in DTYPES:
            table.case({"op": "cast", "dtype": target}, [line], [cast_to(line, target)])
        table.case({"op": "normalize", "axis": 0, "scale": [2.0], "offset": [-1.0]}, [line],
                   [("f32", line.astype(np.float32) * np.float32(2) - np.float32(1))])
        low, high = np.array(-1.0).astype(line.dtype), np.array(2.0).astype(line.dtype)
        clipped = np.where(line < low, low, line)
        table.case({"op": "clamp", "low": "-1.0", "high": "2.0"}, [line], [np.where(clipped > high, high, clipped).astype(line.dtype)])
        finite = line[np.isfinite(wide(line))]
        block = np.stack([line, np.roll(line, 3), np.repeat(finite[3:], 2)[: len(line)]], axis=1)
        for array, axis in ((line, 0), (line[1:], 0), (finite, 0), (block, 0), (block.T.copy(), 1)):
            along(table, name, array, axis)
            for descending in (False, True):
                ordered(table, name, array, axis, descending, exclusive=descending, reverse=False)
        columns = np.array([[np.nan, np.inf, -np.inf, 1.0], [1.0, 1.0, np.inf, -np.inf]]).astype(line.dtype)
        reductions = {"reduce-sum": np.sum, "reduce-mean": np.mean, "reduce-max": np.max, "reduce-min": np.min,
                      "reduce-l2": lambda x, **how: np.sqrt(np.sum(x * x, **how))}
        for op, function in reductions.items():
            for array, axis in ((columns, 0), (columns.T.copy(), 1), (columns[:, 1], 0), (columns[:, 0], 0)):
                call = {"op": op, "axes": [axis], "keep_axes": False}
                table.case(call, [array], [(name, np.asarray(function(wide(array), axis=axis)))])
        corners = np.array([[0, 0, 4, 4], [0, 0, 4, np.nan], [0, 0, np.inf, 4], [1, 1, 4, 4], [2, 2, 2, 5], [0, 0, 4, 4],
                            [-np.inf, 0, np.inf, 4]]).astype(line.dtype)
        scores = np.array([0.9, 0.8, 0.7, np.nan, 0.5, 0.4, np.inf]).astype(line.dtype)
        precise = np.float64 if name == "f64" else np.float32
        for overlap in (0.0, 0.5, 1.0):
            for least in (-np.inf, 0.45):
                call = {"op": "non-maximum-suppression", "iou_threshold": overlap, "score_threshold": repr(least), "maximum": 8}
                expected = suppressed(corners.astype(precise), scores.astype(precise), precise(overlap), precise(least), 8)
                table.case(call, [corners, scores], list(expected))
