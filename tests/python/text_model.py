"""Makes a model of text and prints onnxruntime's outputs for a few inputs.

    text_model.py OUT

Writes OUT/text.onnx and prints a JSON list: {"inputs", "outputs"}, where tensors are {name: {"dtype", "shape", "data"}} with
strings as a list and other elements as little-endian bytes in hexadecimal.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

DTYPES = {"object": "text", "int64": "s64", "bool": "boolean"}
KNOWN = ["yes", "no", "Größe", "東京"]


def model():
    """Words and a suffix, joined; the words' parts; which are known, by number and by name; which have digits."""
    nodes = [
        helper.make_node("StringConcat", ["words", "suffix"], ["joined"]),
        helper.make_node("StringSplit", ["words"], ["parts", "counts"], delimiter=" "),
        helper.make_node("RegexFullMatch", ["words"], ["digits"], pattern="[0-9]+"),
        helper.make_node(
            "LabelEncoder",
            ["words"],
            ["numbers"],
            domain="ai.onnx.ml",
            keys_strings=KNOWN,
            values_int64s=list(range(len(KNOWN))),
            default_int64=-1,
        ),
        helper.make_node(
            "LabelEncoder",
            ["numbers"],
            ["names"],
            domain="ai.onnx.ml",
            keys_int64s=list(range(len(KNOWN))),
            values_strings=KNOWN,
            default_string="unbekannt ✗",
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "text",
        [
            helper.make_tensor_value_info("words", TensorProto.STRING, ["batch", "n"]),
            helper.make_tensor_value_info("suffix", TensorProto.STRING, []),
        ],
        [
            helper.make_tensor_value_info("joined", TensorProto.STRING, ["batch", "n"]),
            helper.make_tensor_value_info("parts", TensorProto.STRING, ["batch", "n", "most"]),
            helper.make_tensor_value_info("counts", TensorProto.INT64, ["batch", "n"]),
            helper.make_tensor_value_info("digits", TensorProto.BOOL, ["batch", "n"]),
            helper.make_tensor_value_info("numbers", TensorProto.INT64, ["batch", "n"]),
            helper.make_tensor_value_info("names", TensorProto.STRING, ["batch", "n"]),
        ],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 4)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def tensors(values):
    def plain(value):
        dtype = DTYPES[str(value.dtype)]
        data = value.reshape(-1).tolist() if dtype == "text" else value.tobytes().hex()
        return {"dtype": dtype, "shape": value.shape, "data": data}

    return {name: plain(np.asarray(value)) for name, value in values.items()}


def main(out):
    path = out / "text.onnx"
    onnx.save(model(), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    cases = []
    for words, suffix in [
        ([["yes", "no", ""], ["Größe", "東京", "123"]], "!"),
        ([["one two  three", "42", "👩\u200d👩\u200d👧 e\u0301"]], " 後"),
        ([[""]], ""),
        (np.empty((0, 3), object), "!"),
        ([["x" * 70_000], ["a b"]], "é" * 300),
    ]:
        inputs = {"words": np.array(words, object), "suffix": np.array(suffix, object)}
        outputs = dict(zip(names, session.run(None, inputs), strict=True))
        cases.append({"inputs": tensors(inputs), "outputs": tensors(outputs)})
    json.dump(cases, sys.stdout)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
