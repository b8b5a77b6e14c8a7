"""Measures NumPy, OpenCV and Pillow on the rows of `bench/src/operators.rs`, on one thread: a line for each, name, tab,
microseconds (the median). With --make it writes the image that both programs read, and ends.

    operator_bench.py FOLDER [--make]
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

REPEATS = 15


def photo():
    """1920 x 1080 pixels with slopes, edges and noise, so that a JPEG of it is about as large as one of a photograph."""
    rng = np.random.default_rng(7)
    height, width = 1080, 1920
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    image = np.stack([x / width * 255, y / height * 255, 128 + 100 * np.sin(x / 40) * np.cos(y / 55)], axis=-1)
    for _ in range(60):
        top, left = rng.integers(0, height), rng.integers(0, width)
        image[top : top + rng.integers(20, 300), left : left + rng.integers(20, 400)] += rng.normal(0, 60, 3)
    image += cv2.GaussianBlur(rng.normal(0, 25, image.shape).astype(np.float32), (0, 0), 1.0)
    return np.clip(image, 0, 255).astype(np.uint8)


def row(name, work):
    work()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1e6)
    print(f"{name}\t{sorted(times)[REPEATS // 2]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", action="store_true")
    arguments = parser.parse_args()
    file = arguments.folder / "image.jpg"
    if arguments.make:
        file.write_bytes(cv2.imencode(".jpg", photo(), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
        return
    cv2.setNumThreads(1)
    data = np.frombuffer(file.read_bytes(), dtype=np.uint8)
    scale = np.array([0.0171, 0.0175, 0.0174], dtype=np.float32)
    offset = np.array([-2.118, -2.036, -1.804], dtype=np.float32)

    def decode():
        return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)

    def normalized(image):
        # The fastest way in OpenCV.
        return cv2.add(cv2.multiply(image, (*scale.tolist(), 0), dtype=cv2.CV_32F), (*offset.tolist(), 0))

    image = decode()
    small = cv2.resize(image, (640, 640))
    floats = normalized(small)
    rng = np.random.default_rng(1)
    million, many, square, table = (
        rng.random(shape, dtype=np.float32) for shape in ([1 << 20], [1 << 22], [1024, 1024], [4096, 256])
    )
    rows = rng.integers(0, 4096, size=4096)

    def softmax():
        powers = np.exp(square - square.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def top():
        found = np.argpartition(square, -5, axis=1)[:, -5:]
        values = np.take_along_axis(square, found, axis=1)
        order = np.argsort(-values, axis=1)
        return np.take_along_axis(values, order, axis=1), np.take_along_axis(found, order, axis=1)

    def sort():
        order = np.argsort(million, kind="stable")
        return million[order], order

    row("decode, resize, normalize", lambda: normalized(cv2.resize(decode(), (640, 640))))
    row("decode", decode)
    row("resize bilinear", lambda: cv2.resize(image, (640, 640)))
    row("resize area", lambda: cv2.resize(image, (640, 640), interpolation=cv2.INTER_AREA))
    picture = Image.fromarray(image)
    for name, filter in (("resize antialiased", Image.Resampling.BILINEAR), ("bicubic antialiased", Image.Resampling.BICUBIC)):
        row(name, lambda filter=filter: picture.resize((640, 640), filter, reducing_gap=None))
    row("normalize", lambda: normalized(small))
    row("permute hwc to chw", lambda: np.ascontiguousarray(floats.transpose(2, 0, 1)))
    row("cast u8 to f32", lambda: image.astype(np.float32))
    row("matmul 1024", lambda: square @ square)
    row("add", lambda: many + many)
    row("exp", lambda: np.exp(many))
    row("softmax", softmax)
    row("reduce-sum", lambda: square.sum(axis=1))
    row("sort", sort)
    row("top-k 5", top)
    row("gather rows", lambda: table[rows])


if __name__ == "__main__":
    main()
