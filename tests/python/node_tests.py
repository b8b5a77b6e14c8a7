"""Writes ONNX's backend node tests, which the `onnx` wheel carries, as models with inputs and expected outputs.

    node_tests.py OUT

Each test becomes OUT/NAME/model.onnx and, twice, its data: as samples (OUT/NAME/samples/N.json and .npy, which an upload takes) and
in OUT/index.json: {"tests": [{name, rtol, atol, cases: [{inputs, outputs}]}], "left_out": {reason: count}}, where an array is
{name, dtype, shape, file}, with row-major little-endian elements in the file, or a list of strings in JSON for text.

Tests are left out if the contract has no tensors for their inputs or outputs (sequences, optionals, 4- and 8-bit floats, …), or if
their outputs are random.
"""

import argparse
import collections
import json
import pathlib
import shutil

import numpy
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

WORDS = {
    TensorProto.BOOL: "boolean",
    TensorProto.UINT8: "u8",
    TensorProto.INT8: "s8",
    TensorProto.UINT16: "u16",
    TensorProto.INT16: "s16",
    TensorProto.UINT32: "u32",
    TensorProto.INT32: "s32",
    TensorProto.UINT64: "u64",
    TensorProto.INT64: "s64",
    TensorProto.FLOAT16: "f16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.FLOAT: "f32",
    TensorProto.DOUBLE: "f64",
    TensorProto.STRING: "text",
}

# The types that numpy.save has; the others are written as JSON.
SAVED = set(WORDS) - {TensorProto.BFLOAT16, TensorProto.STRING}

# Outputs drawn at random; `seed` makes them the same only in one implementation.
RANDOM = ("bernoulli", "multinomial", "randomnormal", "randomuniform", "training_dropout", "dropout_random")
# Attributes and dimensions of a tensor in the contract.
MOST_RANK = 8


def left_out(name, model):
    if any(word in name for word in RANDOM):
        return "random outputs"
    constants = {constant.name for constant in model.graph.initializer}
    for value in [*model.graph.input, *model.graph.output]:
        if value.name in constants:
            continue
        if not value.type.HasField("tensor_type"):
            return "no tensor"
        kind = value.type.tensor_type
        if kind.elem_type not in WORDS:
            return TensorProto.DataType.Name(kind.elem_type)
        if not kind.HasField("shape"):
            return "no declared rank"
        if len(kind.shape.dim) > MOST_RANK:
            return "too many dimensions"
    return None


def elements(tensor):
    array = numpy_helper.to_array(tensor)
    if tensor.data_type == TensorProto.STRING:
        strings = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()]
        return array, json.dumps(strings).encode()
    return array, numpy.ascontiguousarray(array).tobytes()


def written(number):
    if isinstance(number, float) and not numpy.isfinite(number):
        return "nan" if numpy.isnan(number) else "inf" if number > 0 else "-inf"
    return number


def sample(folder, label, tensor, array):
    if tensor.data_type in SAVED:
        numpy.save(folder / f"{label}.npy", numpy.require(array, requirements="C"))
        return {"npy": f"{label}.npy"}
    if tensor.data_type == TensorProto.STRING:
        data = json.loads(elements(tensor)[1])
    else:
        data = [written(number) for number in array.astype(numpy.float64).ravel().tolist()]
    return {"dtype": WORDS[tensor.data_type], "shape": list(array.shape), "data": data}


def write(test, out):
    """The test's entry in the index, or why it is left out."""
    model = test.model
    reason = left_out(test.name, model)
    if reason:
        return reason
    constants = {constant.name for constant in model.graph.initializer}
    names = {
        "input": [value.name for value in model.graph.input if value.name not in constants],
        "output": [value.name for value in model.graph.output],
    }
    folder = out / test.name
    (folder / "samples").mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    cases = []
    for number, data in enumerate(test.data_sets):
        case, replayed = {}, {}
        for side, values in zip(["input", "output"], data):
            if len(values) != len(names[side]):
                return "optional inputs or outputs"
            case[side + "s"], replayed[side + "s"] = [], {}
            for index, name in enumerate(names[side]):
                tensor = values[index]
                if isinstance(tensor, (numpy.ndarray, numpy.generic)):
                    tensor = numpy_helper.from_array(numpy.asarray(tensor))
                if not isinstance(tensor, TensorProto):
                    return "data that is no tensor"
                if tensor.data_type not in WORDS:
                    return "data of another type"
                array, raw = elements(tensor)
                label = f"{number}-{side}-{index}"
                (folder / f"{label}.bin").write_bytes(raw)
                word = WORDS[tensor.data_type]
                case[side + "s"].append({"name": name, "dtype": word, "shape": list(array.shape), "file": f"{label}.bin"})
                replayed[side + "s"][name] = sample(folder / "samples", label, tensor, array)
        replayed["tolerance"] = {"absolute": 1e-3, "relative": max(test.rtol, 1e-2)}
        (folder / "samples" / f"{number}.json").write_text(json.dumps(replayed))
        cases.append(case)
    return {"name": test.name, "rtol": test.rtol, "atol": test.atol, "cases": cases}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    tests, reasons = [], collections.Counter()
    for test in load_model_tests(kind="node"):
        entry = write(test, arguments.out)
        if isinstance(entry, str):
            shutil.rmtree(arguments.out / test.name, ignore_errors=True)
            reasons[entry] += 1
        else:
            tests.append(entry)
    (arguments.out / "index.json").write_text(json.dumps({"tests": tests, "left_out": reasons}))


if __name__ == "__main__":
    main()
