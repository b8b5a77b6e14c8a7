"""Runs a model in Python's onnxruntime on generated inputs and writes inputs and outputs, for the engine's test to replay.

    engine.py MODEL.onnx OUT [--threads N]

The name of MODEL.onnx's folder selects its inputs, which are the same on every run. OUT gets cases.json
(a list of {inputs, outputs}, each a list of {name, dtype, shape, file}) and the files with the elements, row-major and
little-endian.
"""

import argparse
import json
import pathlib

import numpy
import onnxruntime

DTYPES = {
    "tensor(bool)": ("boolean", numpy.bool_),
    "tensor(uint8)": ("u8", numpy.uint8),
    "tensor(int32)": ("s32", numpy.int32),
    "tensor(int64)": ("s64", numpy.int64),
    "tensor(float)": ("f32", numpy.float32),
    "tensor(double)": ("f64", numpy.float64),
}
WORDS = {numpy.dtype(kind): word for word, kind in DTYPES.values()}

# Lengths of the free dimensions, case by case: token sequences by default; images whose sides the OCR models take.
SEQUENCES = [(1, 33), (3, 7), (1, 128)]
LINES = [(1, 3, 48, 192), (3, 3, 48, 192), (2, 3, 48, 192)]
PAGES = [(1, 3, 64, 96), (1, 3, 320, 256), (2, 3, 96, 32)]
LENGTHS = {"ocr-detect": PAGES, "ocr-recognize": LINES, "ocr-classify": LINES}
# By input: the last 64 samples before and 512 samples of sound, a state, a rate.
SPEECH = {"input": [(1, 576), (3, 576), (2, 576)], "state": [(2, 1, 128), (2, 3, 128), (2, 2, 128)], "sr": [()] * 3}


def shape_of(model, name, declared, case):
    speech = model.parent.name == "silero-vad"
    lengths = (SPEECH[name] if speech else LENGTHS.get(model.parent.name, SEQUENCES))[case]
    return [dim if isinstance(dim, int) else length for dim, length in zip(declared, lengths, strict=True)]


def generate(random, name, kind, shape):
    if "mask" in name:
        tokens = random.integers(1, shape[-1] + 1, size=shape[0])
        return (numpy.arange(shape[-1])[None, :] < tokens[:, None]).astype(kind)
    if "type" in name:
        return numpy.zeros(shape, kind)
    if name == "sr":
        return numpy.array(16000, kind)
    if numpy.issubdtype(kind, numpy.floating):
        return random.standard_normal(shape).astype(kind)
    return random.integers(0, 256, size=shape).astype(kind)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(arguments.model, options, providers=["CPUExecutionProvider"])
    random = numpy.random.default_rng(3)
    arguments.out.mkdir(parents=True, exist_ok=True)

    def write(name, array, file):
        (arguments.out / file).write_bytes(array.tobytes())
        return {"name": name, "dtype": WORDS[array.dtype], "shape": list(array.shape), "file": file}

    cases = []
    for case in range(len(SEQUENCES)):
        feeds = {}
        for declared in session.get_inputs():
            name, (_, kind) = declared.name, DTYPES[declared.type]
            feeds[name] = generate(random, name, kind, shape_of(arguments.model, name, declared.shape, case))
        results = session.run(None, feeds)
        names = [declared.name for declared in session.get_outputs()]
        cases.append(
            {
                "inputs": [write(name, array, f"{case}-in-{i}.bin") for i, (name, array) in enumerate(feeds.items())],
                "outputs": [write(name, array, f"{case}-out-{i}.bin") for i, (name, array) in enumerate(zip(names, results))],
            }
        )
    (arguments.out / "cases.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main()
