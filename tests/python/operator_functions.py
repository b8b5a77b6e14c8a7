"""Cases of comparisons, functions, indices, reductions, order, matrices and boxes, for operators.py."""

import math

import numpy as np

from operator_table import DTYPES, FLOATS, INTEGERS, NUMBERS, broadcasting, cast_to, evaluate, ranked, wide


# Comparisons, choices, functions


COMPARISONS = {"equal": np.equal, "not-equal": np.not_equal, "less": np.less, "less-or-equal": np.less_equal,
               "greater": np.greater, "greater-or-equal": np.greater_equal}


def comparisons(table, rounds):
    for round_ in range(rounds):
        for name in DTYPES:
            for op, function in COMPARISONS.items():
                shape = table.shape(table.rank(), zeros=round_ > 0)
                a, b = (table.array(name, broadcasting(table, shape), largest=True) for _ in range(2))
                if a.shape == b.shape:
                    b = np.where(table.rng.random(shape_of(a)) < 0.4, a, b).astype(a.dtype)
                table.case({"op": op}, [a, b], [function(a, b)])
        for op, function in {"logical-and": np.logical_and, "logical-or": np.logical_or}.items():
            for rank in range(9):
                shape = table.shape(rank, zeros=round_ > 0)
                a, b = (table.array("boolean", broadcasting(table, shape)) for _ in range(2))
                table.case({"op": op}, [a, b], [function(a, b)])
        for name in DTYPES:
            shape = table.shape(table.rank(), zeros=round_ > 0)
            condition = table.array("boolean", broadcasting(table, shape))
            a, b = table.array(name, broadcasting(table, shape)), table.array(name, broadcasting(table, shape))
            table.case({"op": "select"}, [condition, a, b], [np.where(condition, a, b).astype(a.dtype)])
    for steps in np.ndindex(2, 2, 2):
        condition, a, b = (table.array(name, [3, 50 if step else 1]) for name, step in zip(["boolean", "f32", "f32"], steps))
        table.case({"op": "select"}, [condition, a, b], [np.where(condition, a, b)])
    for op in COMPARISONS:
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


def closely(op):
    """Whether small results are exact to the dtype's tolerance too: not where the formula takes a difference of large ones."""
    return [] if op in ("gelu", "log") else ["close"]


def functions_of_one():
    """The functions of one element: those of any number, those that give whole numbers, and those that are near."""
    exact = {"abs": np.abs, "negate": np.negative, "sign": np.sign, "relu": lambda x: np.where(x < 0, np.zeros_like(x), x)}
    whole = {"floor": np.floor, "ceil": np.ceil, "round": np.round}
    near = {"exp": np.exp, "log": np.log, "sqrt": np.sqrt, "reciprocal": np.reciprocal, "sigmoid": agreeing("Sigmoid", lambda x: 1 / (1 + np.exp(-x))), "tanh": agreeing("Tanh", np.tanh),
            "gelu": agreeing("Gelu", exact_gelu), "erf": agreeing("Erf", exact_erf)}
    return exact, whole, near


def functions(table, rounds):
    exact, whole, near = functions_of_one()
    signed = [name for name in INTEGERS if name[0] == "s"]
    for round_ in range(2 * rounds):
        for name in NUMBERS:
            for op, function in exact.items():
                array = table.array(name, table.shape(table.rank(), zeros=round_ > 0), largest=True)
                if op in ("negate", "relu") and name not in signed + FLOATS:
                    table.error({"op": op}, [array], "signed")
                elif op in ("sign", "relu") and name in FLOATS:
                    # The sign of a zero is left open.
                    table.case({"op": op}, [array], [(name, wide(function(array)))])
                else:
                    table.case({"op": op}, [array], [np.asarray(function(array)).astype(array.dtype)])
        for name in FLOATS:
            for op, function in whole.items():
                array = table.array(name, table.shape(table.rank(), zeros=round_ > 0), largest=True)
                table.case({"op": op}, [array], [function(wide(array)).astype(array.dtype)])
            for op, function in near.items():
                array = table.array(name, table.shape(table.rank(), most=1_000, zeros=round_ > 0), largest=op not in ("gelu", "erf"))
                values = np.abs(array) if op in ("log", "sqrt") and table.rng.random() < 0.7 else array
                table.case({"op": op}, [values], [(name, np.asarray(function(wide(values))), *closely(op))])
        for name in NUMBERS:
            array = table.array(name, table.shape(table.rank(), zeros=round_ > 0), largest=True)
            low, high = sorted(float(x) for x in table.rng.standard_normal(2) * table.pick([1, 50, 1e20]))
            low, high = table.pick([(low, high), (low, low), (-np.inf, high), (low, np.inf), (-np.inf, np.inf)])
            bounds = [cast_to(np.array(bound), name) for bound in (low, high)]
            clipped = np.where(array < bounds[0], bounds[0], array)
            clipped = np.where(clipped > bounds[1], bounds[1], clipped).astype(array.dtype)
            table.case({"op": "clamp", "low": repr(low), "high": repr(high)}, [array], [clipped])
    for rank in range(9):
        flags = table.array("boolean", table.shape(rank, zeros=False))
        table.case({"op": "logical-not"}, [flags], [~np.asarray(flags)])
    for name in FLOATS:
        edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-7, -1e-7, 88.0, -88.0, 104.0, -104.0, 700.0, 5.5, -5.5, 0.5, 1.5, 5e4, -5e4])
        edges = edges.astype(DTYPES[name])
        for op, function in near.items():
            table.case({"op": op}, [edges], [(name, np.asarray(function(wide(edges))), *closely(op))])
        for op, function in whole.items():
            table.case({"op": op}, [edges], [function(wide(edges)).astype(edges.dtype)])
    for op in [*near, *whole]:
        table.error({"op": op}, [np.zeros([2], dtype=np.int32)], "dtype")
    for op in [*near, *whole, *exact]:
        table.error({"op": op}, [np.zeros([2], dtype=bool)], "dtype")
    table.error({"op": "clamp", "low": "1", "high": "0"}, [np.zeros([2])], "low")
    table.error({"op": "clamp", "low": "nan", "high": "0"}, [np.zeros([2])], "low")
    table.error({"op": "clamp", "low": "0", "high": "1"}, [np.zeros([2], dtype=bool)], "dtype")
    for round_ in range(4 * rounds):
        for name in NUMBERS:
            shape = table.shape(table.rank(), zeros=round_ > 0)
            a, b = table.array(name, broadcasting(table, shape)), table.array(name, broadcasting(table, shape))
            if name in INTEGERS:
                zero = np.zeros([], dtype=a.dtype)
                safe = np.where(b == 0, np.ones([], dtype=a.dtype), b)
                table.case({"op": "modulo"}, [a, b], [np.where(b == 0, zero, np.mod(a, safe)).astype(a.dtype)])
                table.error({"op": "power"}, [a, b], "dtype")
            else:
                a, b = np.abs(a) if table.rng.random() < 0.5 else a, np.clip(b, -3, 3).astype(a.dtype)
                exact_power = np.power(wide(a), wide(b))
                table.case({"op": "power"}, [a, b], [(name, exact_power, "close")])
                table.error({"op": "modulo"}, [a, b], "dtype")


# Indices


def indexing(table, rounds):
    pairs = [(name, index, round_) for round_ in range(rounds) for name in DTYPES for index in INTEGERS]
    for turn, (name, index, round_) in enumerate(pairs):
        # Every rank meets every dtype of indices.
        turn += turn // 8
        rank = 1 + turn % 8
        some = round_ == 0
        array = table.array(name, table.shape(rank, most=600, zeros=not some))
        axis = table.integer(-rank, rank)
        length = array.shape[axis]
        shape = table.shape(table.integer(0, min(4, 10 - rank)), most=60, zeros=not some)
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
        indices = table.rng.integers(low, depth, size=table.shape(turn % 8, most=60, zeros=not some)).astype(DTYPES[index])
        axis = table.integer(-indices.ndim - 1, indices.ndim + 1)
        hot = np.eye(depth)[np.mod(indices.astype(np.int64), depth)]
        hot = np.moveaxis(hot, -1, axis).astype(np.float32).astype(DTYPES[name])
        table.case({"op": "one-hot", "depth": depth, "axis": axis, "dtype": name}, [indices], [hot])
        if index != "u8":
            continue
        lengths = [int(length) for length in table.rng.multinomial(array.shape[0], [0.25] * 4)]
        for along in (0, rank - 1):
            cuts = table.rng.multinomial(array.shape[along], [1 / 3] * 3)
            parts = np.split(array, np.cumsum(cuts)[:-1], axis=along)
            table.case({"op": "split", "axis": along - rank, "lengths": [int(cut) for cut in cuts]}, [array], parts)
        table.case({"op": "split", "axis": 0, "lengths": lengths}, [array], np.split(array, np.cumsum(lengths)[:-1]))
    for name in DTYPES:
        array = table.array(name, [4, 3])
        table.case({"op": "split", "axis": 0, "lengths": [1, 3]}, [array], np.split(array, [1]))
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
    for round_ in range(5 * rounds):
        for name in DTYPES:
            for op, function in names.items():
                rank = round_ % 9
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
    """How many times larger the sum of magnitudes is than the sum, at most."""
    finite = np.where(np.isfinite(wide(array)), np.abs(wide(array)), 0)
    return min(max(1.0, float(np.max(np.sum(finite, **how), initial=1.0))), 1e200)


def orders(table, rounds):
    for round_ in range(4 * rounds):
        for name in DTYPES:
            rank = 1 + round_ % 8
            shape = table.shape(rank, zeros=round_ > 0)
            if round_ > 7 and table.rng.random() < 0.25:
                shape, rank = table.pick([[2, 20_000], [20_000, 2], [3, 40, 70]]), None
                rank = len(shape)
            axis = table.integer(-rank, rank)
            array = table.array(name, shape, special=table.rng.random() < 0.5, largest=True)
            if name != "boolean" and table.rng.random() < 0.5:
                # Sums of numbers of one magnitude are checked more closely.
                array = table.array(name, shape, special=False)
            ordered(table, name, array, axis, *(bool(table.integer(0, 2)) for _ in range(3)))
    square = np.zeros([2, 2], dtype=np.float32)
    table.error({"op": "sort", "axis": 2, "descending": False}, [square], "axis")
    table.error({"op": "sort", "axis": 0, "descending": False}, [np.float32(0)], "axis")
    table.error({"op": "argmin", "axis": 1, "keep_axis": True}, [square[:, :0]], "empty")
    table.error({"op": "log-softmax", "axis": 0}, [square.astype(np.int32)], "dtype")
    table.error({"op": "cumulative-sum", "axis": -3, "exclusive": False, "reverse": False}, [square], "axis")


def ordered(table, name, array, axis, descending, exclusive, reverse):
    """`sort`, `argmin`, `cumulative-sum` and `log-softmax` of an array."""
    shape = array.shape
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
    call = {"op": "cumulative-sum", "axis": axis, "exclusive": exclusive, "reverse": reverse}
    if name == "boolean":
        table.error(call, [array], "dtype")
        return
    addends = array
    if name == "f64":
        # Where sums come near the largest number, the order of the additions decides whether one overflows.
        far = np.isfinite(array) & (np.abs(array) > 1e300)
        addends = np.where(far, np.copysign(1e300, array), array)
    terms = wide(addends) if name in FLOATS else addends
    terms = np.flip(terms, axis) if reverse else terms
    sums = np.cumsum(terms, axis=axis, dtype=terms.dtype)
    if exclusive:
        first = np.zeros_like(np.take(terms, [0] if shape[axis] else [], axis=axis))
        sums = np.concatenate([first, sums], axis=axis).take(np.arange(shape[axis]), axis=axis)
    sums = np.flip(sums, axis) if reverse else sums
    if name in FLOATS:
        table.case(call, [addends], [(name, sums, spread(addends, axis=axis))])
        exact = wide(array)
        most = np.max(exact, axis=axis, keepdims=True, initial=-np.inf)
        expected = exact - most - np.log(np.sum(np.exp(exact - most), axis=axis, keepdims=True))
        table.case({"op": "log-softmax", "axis": axis}, [array], [(name, expected)])
        if exact.size and np.isfinite(exact).all():
            # ONNX's evaluator takes the logarithm of the softmax, which is 0 far below the largest element.
            near = expected > -700
            theirs = evaluate("LogSoftmax", [exact], axis=axis)
            np.testing.assert_allclose(expected[near], theirs[near], rtol=1e-9, atol=1e-9)
    else:
        table.case(call, [addends], [sums.astype(array.dtype)])


# Matrices and boxes


def products(table, rounds):
    for round_ in range(12 * rounds):
        for name in NUMBERS:
            m, k, n = (int(table.pick([0, 1, 1, 2, 3, 4, 5, 8, 17, 33, 70])) for _ in range(3))
            if table.rng.random() < 0.1:
                m, k, n = table.pick([[3, 300, 1_030], [260, 270, 5], [6, 600, 1], [1, 520, 40]])
            batch = table.shape(round_ % 7, most=12)
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
    # Lengths of several parts and a rest, in every way in which a product is computed.
    for name in NUMBERS:
        for m, k, n in ([5, 103, 1], [1, 103, 1], [3, 101, 7], [9, 91, 20], [20, 45, 17]):
            a, b = (table.array(name, shape, special=False) for shape in ([m, k], [k, n]))
            if name in INTEGERS:
                table.case({"op": "matmul"}, [a, b], [np.matmul(a, b)])
            else:
                scale = max(1.0, float(np.max(np.matmul(np.abs(wide(a)), np.abs(wide(b))))))
                table.case({"op": "matmul"}, [a, b], [(name, np.matmul(wide(a), wide(b)), scale)])
    # Of small integers every sum is exact, zeros among them, also in parts.
    for name in FLOATS:
        a, b = (table.rng.integers(-2, 3, shape).astype(DTYPES[name]) for shape in ([9, 45], [45, 20]))
        table.case({"op": "matmul"}, [a, b], [np.matmul(wide(a), wide(b)).astype(DTYPES[name])])
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
