"""Makes a random picture and prints the expected answer of a classifier.

    chain_reference.py MODEL.onnx SEED OUT.png

Writes OUT.png and prints JSON: {"height", "width", "scores", "classes"}, the five best of the softmax. The picture goes
through ONNX's own Resize (bilinear, antialiased), NumPy and onnxruntime. If two of the best classes are
too close to distinguish, by the scores before the softmax, another picture is drawn.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

from operators import by_evaluator

MEAN = np.array([0.485, 0.456, 0.406])
DEVIATION = np.array([0.229, 0.224, 0.225])
BEST = 5


def drawn(random):
    """Noise on coloured patches, so that pictures differ in more than noise."""
    height, width = (int(length) for length in random.integers(17, 90, 2))
    patches = random.integers(0, 256, (3, 4, 3))
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 4 // width
    noise = random.integers(-40, 41, (height, width, 3))
    return np.clip(patches[rows][:, columns] + noise, 0, 255).astype(np.uint8)


def classified(session, picture):
    small = picture.astype(np.float64)
    for axis in (0, 1):
        small = by_evaluator(small, axis, 16, "half-pixel", mode="linear", antialias=1, exclude_outside=1)
    small = np.rint(np.clip(small, 0, 255))
    small = ((small / 255 - MEAN) / DEVIATION).astype(np.float32).transpose(2, 0, 1)[None]
    return session.run(["scores"], {"picture": small})[0][0].astype(np.float64)


def main():
    model, seed, out = sys.argv[1:]
    random = np.random.default_rng(int(seed))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for _ in range(100):
        picture = drawn(random)
        scores = classified(session, picture)
        classes = np.argsort(-scores)
        # Far above the rounding of f32 sums; most pictures pass, because the scores differ by some units.
        if np.diff(-scores[classes][: BEST + 1]).min() > 1e-3:
            break
    else:
        sys.exit("no picture has classes that can be distinguished")
    Image.fromarray(picture).save(out)
    height, width = picture.shape[:2]
    powers = np.exp(scores - scores.max())
    best = {"scores": (powers / powers.sum())[classes[:BEST]].tolist(), "classes": classes[:BEST].tolist()}
    print(json.dumps({"height": height, "width": width, **best}))


main()
