"""Writes models that are stored in different ways, each into its own folder below FOLDER: weights inside and outside of the
model's file, in the bodies of If and Loop, int8 between QuantizeLinear and DequantizeLinear, f16,
convolutions. Each takes `x`, f32 [n, 256], and gives `y`. Usage: prepared_models.py FOLDER"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 256
random = np.random.default_rng(20)


def weights(name, shape=(WIDTH, WIDTH), dtype=np.float32):
    values = random.standard_normal(shape) / np.sqrt(shape[-1])
    return numpy_helper.from_array(values.astype(dtype), name)


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def tensor(name, dtype=TensorProto.FLOAT, shape=("n", WIDTH)):
    return helper.make_tensor_value_info(name, dtype, shape)


def save(name, nodes, initializers, **external):
    graph = helper.make_graph(nodes, name, [tensor("x")], [tensor("y")], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    folder = Path(sys.argv[1]) / name
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx", **external)


def chain():
    nodes, initializers, last = [], [], "x"
    for layer in range(4):
        initializers += [weights(f"w{layer}"), weights(f"b{layer}", (WIDTH,))]
        nodes.append(node("MatMul", f"{last} w{layer}", f"m{layer}"))
        nodes.append(node("Add", f"m{layer} b{layer}", f"a{layer}"))
        last = "y" if layer == 3 else f"t{layer}"
        nodes.append(node("Tanh", f"a{layer}", last))
    return nodes, initializers


def branches():
    def body(name, operator):
        nodes = [node("MatMul", f"x {name}_w", f"{name}_m"), node(operator, f"{name}_m", f"{name}_y")]
        return helper.make_graph(nodes, name, [], [tensor(f"{name}_y")], [weights(f"{name}_w")])

    loop = helper.make_graph(
        [node("MatMul", "before inner", "product"), node("Tanh", "product", "after"), node("Identity", "go", "on")],
        "loop",
        [tensor("turn", TensorProto.INT64, ()), tensor("go", TensorProto.BOOL, ()), tensor("before")],
        [tensor("on", TensorProto.BOOL, ()), tensor("after")],
        [weights("inner")],
    )
    nodes = [
        node("ReduceSum", "x", "sum", keepdims=0),
        node("Greater", "sum zero", "positive"),
        node("If", "positive", "chosen", then_branch=body("then", "Relu"), else_branch=body("else", "Sigmoid")),
        node("Loop", "three true chosen", "y", body=loop),
    ]
    constants = [("zero", np.float32(0)), ("three", np.int64(3)), ("true", np.bool_(True))]
    return nodes, [numpy_helper.from_array(np.array(value), name) for name, value in constants]


def quantised():
    nodes, initializers, last = [], [], "x"
    for name, value in [("scale", np.float32(0.05)), ("zero", np.int8(3)), ("small", np.float32(0.002)), ("none", np.int8(0))]:
        initializers.append(numpy_helper.from_array(np.array(value), name))
    for layer in range(3):
        values = random.integers(-127, 128, (WIDTH, WIDTH), np.int8)
        initializers.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes += [
            node("QuantizeLinear", f"{last} scale zero", f"q{layer}"),
            node("DequantizeLinear", f"q{layer} scale zero", f"d{layer}"),
            node("DequantizeLinear", f"w{layer} small none", f"f{layer}"),
            node("MatMul", f"d{layer} f{layer}", f"m{layer}"),
        ]
        last = f"m{layer}"
    return [*nodes, node("QuantizeLinear", f"{last} scale zero", "q"), node("DequantizeLinear", "q scale zero", "y")], initializers


def half():
    nodes = [
        node("Cast", "x", "h", to=TensorProto.FLOAT16),
        node("MatMul", "h w", "m"),
        node("Softmax", "m", "s"),
        node("Cast", "s", "y", to=TensorProto.FLOAT),
    ]
    return nodes, [weights("w", dtype=np.float16)]


def convolved():
    shape = numpy_helper.from_array(np.array([-1, 4, 8, 8], np.int64), "image")
    back = numpy_helper.from_array(np.array([-1, WIDTH], np.int64), "flat")
    nodes = [
        node("Reshape", "x image", "i"),
        node("Conv", "i w1", "c1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r"),
        node("Conv", "r w2", "c2", pads=[1, 1, 1, 1]),
        node("Reshape", "c2 flat", "y"),
    ]
    return nodes, [weights("w1", (32, 4, 3, 3)), weights("w2", (4, 32, 3, 3)), shape, back]


save("inside", *chain())
save("outside", *chain(), save_as_external_data=True, location="weights.bin", size_threshold=1024)
save("branches", *branches())
save("quantised", *quantised())
save("half", *half())
save("convolved", *convolved())
