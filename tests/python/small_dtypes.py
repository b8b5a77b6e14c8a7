"""Makes models of 16-bit floats and 8-bit integers out of one network, and runs each in onnxruntime.

    small_dtypes.py SEED OUT

Writes OUT/{name}.onnx and prints a JSON list: {"name", "inputs", "outputs"}, where tensors are
{name: {"dtype", "shape", "data"}} with little-endian bytes in hexadecimal. It uses common tools:
onnxruntime's float16 converter and its static (QDQ and QOperator) and dynamic quantizers.
"""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

WORDS = {"float16": "f16", "float32": "f32", "int8": "s8", "uint8": "u8"}
SHAPE = (3, 20, 24)


def network(random):
    """Two convolutions, a pool, two dense layers: 10 scores for an image."""
    weights = {
        "c1": random.normal(0, 0.3, (8, 3, 3, 3)),
        "b1": random.normal(0, 0.1, 8),
        "c2": random.normal(0, 0.15, (16, 8, 3, 3)),
        "b2": random.normal(0, 0.1, 16),
        "d1": random.normal(0, 0.05, (16 * 5 * 6, 32)),
        "e1": random.normal(0, 0.1, 32),
        "d2": random.normal(0, 0.2, (32, 10)),
        "e2": random.normal(0, 0.1, 10),
    }
    nodes = [
        helper.make_node("Conv", ["image", "c1", "b1"], ["x1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["x1"], ["x2"]),
        helper.make_node("Conv", ["x2", "c2", "b2"], ["x3"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x3"], ["x4"]),
        helper.make_node("MaxPool", ["x4"], ["x5"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["x5"], ["x6"]),
        helper.make_node("MatMul", ["x6", "d1"], ["x7"]),
        helper.make_node("Add", ["x7", "e1"], ["x8"]),
        helper.make_node("Relu", ["x8"], ["x9"]),
        helper.make_node("MatMul", ["x9", "d2"], ["x10"]),
        helper.make_node("Add", ["x10", "e2"], ["x11"]),
        helper.make_node("Softmax", ["x11"], ["scores"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


class Calibration(CalibrationDataReader):
    def __init__(self, random):
        self.batches = iter([{"image": random.random((4, *SHAPE), np.float32)} for _ in range(8)])

    def get_next(self):
        return next(self.batches, None)


def tensors(values):
    return {
        name: {"dtype": WORDS[str(value.dtype)], "shape": value.shape, "data": value.tobytes().hex()}
        for name, value in values.items()
    }


def main(seed, out):
    logging.disable(logging.WARNING)
    random = np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    base = out / "f32.onnx"
    onnx.save(network(random), base)

    onnx.save(convert_float_to_float16(onnx.load(base)), out / "f16.onnx")
    onnx.save(convert_float_to_float16(onnx.load(base), keep_io_types=True), out / "f16-inside.onnx")
    for name, form, activation, per_channel in [
        ("int8-qdq", QuantFormat.QDQ, QuantType.QInt8, True),
        ("uint8-qdq", QuantFormat.QDQ, QuantType.QUInt8, False),
        ("int8-operators", QuantFormat.QOperator, QuantType.QUInt8, False),
    ]:
        quantize_static(
            base,
            out / f"{name}.onnx",
            Calibration(random),
            quant_format=form,
            activation_type=activation,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
        )
    quantize_dynamic(base, out / "int8-dynamic.onnx", weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])

    image = random.random((3, *SHAPE), np.float32)
    exact = None
    cases = []
    names = ["f32", "f16", "f16-inside", "int8-qdq", "uint8-qdq", "int8-operators", "int8-dynamic"]
    for name in names:
        path = out / f"{name}.onnx"
        kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
        wanted = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "f16-inside": TensorProto.FLOAT16}
        assert wanted.get(name, TensorProto.INT8) in kinds, (name, kinds)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        inputs = {given.name: image.astype(np.float16 if given.type == "tensor(float16)" else np.float32)}
        (scores,) = session.run(None, inputs)
        exact = scores if exact is None else exact
        # Of 60 seeds the worst, quantised after each layer, is off by 0.06.
        assert np.abs(scores.astype(np.float64) - exact).max() < 0.15, f"{name} is far from f32"
        cases.append({"name": name, "inputs": tensors(inputs), "outputs": tensors({"scores": scores})})
    json.dump(cases, sys.stdout)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(int(sys.argv[1]), Path(sys.argv[2]))
