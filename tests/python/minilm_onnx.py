"""Builds the ONNX graph of all-MiniLM-L6-v2 from its safetensors.

    minilm_onnx.py SOURCE OUT

SOURCE is a folder with model.safetensors, config.json, tokenizer.json and sentence_bert_config.json. Into OUT go model.onnx
(opset 17; inputs input_ids, attention_mask and token_type_ids, s64 [batch, tokens]; output last_hidden_state, f32
[batch, tokens, hidden]) and assets/. The same bytes every time. The graph is written in the shape in which ONNX Runtime's
optimiser recognises attention, GELU and layer normalisation.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

ASSETS = ["tokenizer.json", "sentence_bert_config.json"]


class Graph:
    """Nodes and initialisers, each under a name of its own."""

    def __init__(self):
        self.nodes = []
        self.constants = {}

    def constant(self, name, value):
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def add(self, operator, inputs, name, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name


def build(weights, config):
    hidden = config["hidden_size"]
    heads = config["num_attention_heads"]
    size = hidden // heads
    graph = Graph()

    def number(value, dtype=np.float32):
        return graph.constant(f"constant/{np.dtype(dtype).name}/{value}", np.array(value, dtype=dtype))

    def numbers(*values):
        return graph.constant("constant/" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def weight(name, transposed=False):
        value = weights[name].astype(np.float32)
        return graph.constant(name + (".transposed" if transposed else ""), value.T if transposed else value)

    def linear(name, source):
        product = graph.add("MatMul", [source, weight(f"{name}.weight", transposed=True)], f"{name}/product")
        return graph.add("Add", [product, weight(f"{name}.bias")], f"{name}/sum")

    def normalise(name, source):
        scale_and_shift = [weight(f"{name}.weight"), weight(f"{name}.bias")]
        epsilon = config["layer_norm_eps"]
        return graph.add("LayerNormalization", [source, *scale_and_shift], f"{name}/normal", axis=-1, epsilon=epsilon)

    # The mask: 0 where a token counts, a large negative number where it does not.
    mask = graph.add("Unsqueeze", ["attention_mask", numbers(1)], "mask/rows")
    mask = graph.add("Unsqueeze", [mask, numbers(2)], "mask/heads")
    mask = graph.add("Cast", [mask], "mask/cast", to=TensorProto.FLOAT)
    mask = graph.add("Sub", [number(1.0), mask], "mask/inverse")
    mask = graph.add("Mul", [mask, number(-10000.0)], "mask/penalty")

    # Words, positions and token types.
    words = graph.add("Gather", [weight("embeddings.word_embeddings.weight"), "input_ids"], "embeddings/words")
    types = graph.add("Gather", [weight("embeddings.token_type_embeddings.weight"), "token_type_ids"], "embeddings/types")
    shape = graph.add("Shape", ["input_ids"], "embeddings/shape")
    length = graph.add("Gather", [shape, number(1, np.int64)], "embeddings/length", axis=0)
    length = graph.add("Unsqueeze", [length, numbers(0)], "embeddings/end")
    places = graph.constant("position_ids", np.arange(config["max_position_embeddings"], dtype=np.int64)[None])
    places = graph.add("Slice", [places, numbers(0), length, numbers(1), numbers(1)], "embeddings/places")
    places = graph.add("Gather", [weight("embeddings.position_embeddings.weight"), places], "embeddings/positions")
    state = graph.add("Add", [words, types], "embeddings/words_and_types")
    state = graph.add("Add", [state, places], "embeddings/sum")
    state = normalise("embeddings.LayerNorm", state)

    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"

        def split(part, order):
            name = f"{prefix}.attention.self.{part}"
            value = graph.add("Reshape", [linear(name, state), numbers(0, 0, heads, size)], f"{name}/heads")
            return graph.add("Transpose", [value], f"{name}/split", perm=order)

        query = split("query", [0, 2, 1, 3])
        key = split("key", [0, 2, 3, 1])
        value = split("value", [0, 2, 1, 3])
        scores = graph.add("MatMul", [query, key], f"{prefix}/scores")
        scores = graph.add("Div", [scores, number(float(np.sqrt(size)))], f"{prefix}/scaled")
        scores = graph.add("Add", [scores, mask], f"{prefix}/masked")
        scores = graph.add("Softmax", [scores], f"{prefix}/weights", axis=-1)
        context = graph.add("MatMul", [scores, value], f"{prefix}/context")
        context = graph.add("Transpose", [context], f"{prefix}/joined", perm=[0, 2, 1, 3])
        context = graph.add("Reshape", [context, numbers(0, 0, hidden)], f"{prefix}/flat")
        context = linear(f"{prefix}.attention.output.dense", context)
        context = graph.add("Add", [context, state], f"{prefix}/attended")
        state = normalise(f"{prefix}.attention.output.LayerNorm", context)

        inner = linear(f"{prefix}.intermediate.dense", state)
        root = graph.add("Div", [inner, number(float(np.sqrt(2)))], f"{prefix}/gelu/root")
        erf = graph.add("Erf", [root], f"{prefix}/gelu/erf")
        one = graph.add("Add", [erf, number(1.0)], f"{prefix}/gelu/one")
        product = graph.add("Mul", [inner, one], f"{prefix}/gelu/product")
        inner = graph.add("Mul", [product, number(0.5)], f"{prefix}/gelu/half")
        inner = linear(f"{prefix}.output.dense", inner)
        inner = graph.add("Add", [inner, state], f"{prefix}/added")
        state = normalise(f"{prefix}.output.LayerNorm", inner)

    graph.nodes[-1].output[0] = "last_hidden_state"
    tokens = ["batch", "tokens"]
    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    made = helper.make_graph(
        graph.nodes,
        "minilm",
        [helper.make_tensor_value_info(name, TensorProto.INT64, tokens) for name in inputs],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*tokens, hidden])],
        list(graph.constants.values()),
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="hearth")
    onnx.checker.check_model(model)
    return model


def main(source, out):
    source, out = Path(source), Path(out)
    config = json.loads((source / "config.json").read_text())
    assert config["hidden_act"] == "gelu" and config["position_embedding_type"] == "absolute", "another kind of BERT"
    model = build(load_file(source / "model.safetensors"), config)
    (out / "assets").mkdir(parents=True, exist_ok=True)
    (out / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    for name in ASSETS:
        shutil.copyfile(source / name, out / "assets" / name)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
