"""The table that operators.py fills, and helpers for its cases: dtypes, random arrays, ONNX's evaluator."""

import json

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

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
# The roundings to the nearest sample, and ONNX's words for them.
ROUNDINGS = {"prefer-floor": "round_prefer_floor", "prefer-ceil": "round_prefer_ceil", "floor": "floor", "ceil": "ceil"}
TOLERANCE = {"f16": 2e-3, "bf16": 2e-2, "f32": 1e-5, "f64": 1e-12}


class Hollow:
    """A tensor without elements whose other dimensions are larger than NumPy takes."""

    def __init__(self, name, shape):
        self.dtype, self.shape = DTYPES[name], list(shape)


class Table:
    """Cases, and the bytes of their tensors."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.cases = []
        self.data = bytearray()
        self.near_ties = 0
        self.ranks = 0

    def tensor(self, array):
        if isinstance(array, Hollow):
            return {"dtype": NAMES[array.dtype], "shape": array.shape, "offset": len(self.data)}
        array = np.asarray(array)
        self.data.extend(b"\0" * (-len(self.data) % 8))
        offset = len(self.data)
        self.data.extend(np.ascontiguousarray(array).tobytes())
        return {"dtype": NAMES[array.dtype], "shape": list(array.shape), "offset": offset}

    def case(self, call, inputs, outputs):
        """Adds a case. An output is an array (exact) or a pair of dtype and array of f64 (within the dtype's tolerance), or
        with a third number within so many times the tolerance; with "close" there, within the tolerance of the magnitude
        itself, however small that is; with ("close", number), within so many times that."""
        described = []
        for output in outputs:
            if isinstance(output, tuple):
                dtype, values, times = (*output, 1.0)[:3]
                if dtype == "u8":
                    check = {"rounded": 1e-3}
                elif times == "close":
                    check = {"close": TOLERANCE[dtype]}
                elif isinstance(times, tuple):
                    check = {"close": TOLERANCE[dtype] * times[1]}
                else:
                    check = {"relative": TOLERANCE[dtype] * times}
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

    def rank(self, least=0):
        """The next rank up to 8, so that each of them occurs."""
        self.ranks += 1
        return least + self.ranks % (9 - least)

    def integer(self, low, high):
        return int(self.rng.integers(low, high))

    def shape(self, rank, most=4_000, zeros=True):
        """Random dimensions, now and then one of 0."""
        while True:
            sizes = [1, 1, 2, 3, 4, 5, 7, 8, 13, 17, 33, 65, 100] if rank < 5 else [1, 1, 2, 2, 3, 4, 5]
            dims = [int(self.pick(sizes)) for _ in range(rank)]
            if np.prod(dims, dtype=object) > most:
                continue
            # The other dimensions stay small: broadcast with 1 the result has none of 0.
            if zeros and rank and self.rng.random() < 0.06:
                dims[self.integer(0, rank)] = 0
            return dims

    def array(self, name, shape, special=True, largest=False):
        """Random elements: of integers the whole range, of floats several magnitudes and, if `special`, NaN, infinity and
        subnormal numbers, and with `largest` the largest finite ones too."""
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
            info = ml_dtypes.finfo(dtype)
            small = [info.smallest_subnormal, info.smallest_normal, -info.smallest_subnormal]
            edges = np.concatenate([edges, np.array(small + ([info.max, info.min] if largest else [])).astype(dtype)])
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


def broadcasting(table, shape):
    """A shape that broadcasts with another to the given one or a part of it."""
    shape = [1 if table.rng.random() < 0.25 else dim for dim in shape]
    return shape[table.integer(0, len(shape) + 1) :] if table.rng.random() < 0.3 else shape


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
    """`cast`: ONNX's, or wit/operators.wit's where ONNX leaves the result open."""
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


def ranked(array, axis):
    """Small integers in the order of the elements: equal elements have one, NaN the largest."""
    comparable = wide(array) if NAMES[array.dtype] in FLOATS else array
    return np.unique(comparable, return_inverse=True)[1].reshape(array.shape).astype(np.int64)
