"""Writes pictures with Pillow, and the pixels that Pillow reads from them, for the test of `decode-image` (tests/system/images.rs).

    images.py SEED OUT

OUT gets index.json: {"kinds": {KIND: {"mean", "largest", "edges"}}, "pictures": [{"name", "kind", "file", "height", "width",
"pixels"}]}. `pixels` is a file with u8 RGB: Pillow's own reading, converted as wit/operators.wit says. `largest` bounds the difference
of any sample, and `mean` the mean difference of all samples of the kind. `edges`, if present, bounds the mean of the samples within
two pixels of an edge, which then do not count in `mean`. Files that Pillow cannot write (interlaced PNG, and 16 bits in colour) are
written here and read by Pillow.
"""

import argparse
import io
import json
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, ImageFile, ImageOps

# Height and width.
SIZES = [(1, 1), (1, 2), (2, 1), (1, 17), (9, 1), (3, 5), (8, 8), (15, 17), (16, 16), (33, 18), (64, 63)]
EXIF_ORIENTATION = 0x0112
# An optimised JPEG is written in one go, and noise takes more than Pillow expects.
ImageFile.MAXBLOCK = 1 << 20
EXACT = {"mean": 0.0, "largest": 0}
# The decoders round JPEG's inverse transform and the conversion from YCbCr differently, by 1 or 2 each. They upsample chroma in the
# same way, except for the last samples next to an edge.
KINDS = {
    "png": EXACT,
    "png interlaced": EXACT,
    "png 16 bit": EXACT,
    "png animated": EXACT,
    "webp lossless": EXACT,
    "webp animated": EXACT,
    "webp lossy": EXACT,
    "jpeg grey": {"mean": 0.03, "largest": 1},
    "jpeg 4:4:4": {"mean": 0.05, "largest": 4},
    "jpeg 4:2:2": {"mean": 0.25, "largest": 5, "edges": 0.6},
    "jpeg 4:2:0": {"mean": 0.45, "largest": 5, "edges": 0.6},
    "jpeg rgb": {"mean": 0.03, "largest": 1},
    "jpeg cmyk": {"mean": 0.03, "largest": 3},
}


class Pictures:
    def __init__(self, seed, out):
        self.rng = np.random.default_rng(seed)
        self.out = out
        self.listed = []

    def sizes(self, more):
        """Small ones, and some at random up to 300."""
        return SIZES + [tuple(int(side) for side in self.rng.integers(1, 301, 2)) for _ in range(more)]

    def pixels(self, size, channels=3):
        """Slopes, an edge and, now and then, noise."""
        height, width = size
        y, x = np.mgrid[0:height, 0:width] / max(height, width)
        result = np.stack([self.rng.normal(0, 160, 2) @ [y.ravel(), x.ravel()] for _ in range(channels)], axis=-1)
        result = result.reshape(height, width, channels) + self.rng.uniform(0, 255, channels)
        result[height // 3 :, width // 4 :] += self.rng.normal(0, 70, channels)
        result += self.rng.normal(0, self.pick([0, 0, 12, 60]), result.shape)
        return np.clip(result, 0, 255).astype(np.uint8)

    def picture(self, size, channels=3):
        """The same for Pillow: L, LA, RGB or RGBA."""
        pixels = self.pixels(size, channels)
        return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)

    def pick(self, choices):
        return choices[int(self.rng.integers(len(choices)))]

    def add(self, kind, name, data, expected=None):
        """Adds the data, and the pixels that Pillow reads from it, unless other ones are given."""
        if expected is None:
            expected = read(data)
        stem = f"{len(self.listed)}"
        (self.out / f"{stem}.image").write_bytes(data)
        (self.out / f"{stem}.rgb").write_bytes(np.ascontiguousarray(expected).tobytes())
        height, width, channels = expected.shape
        assert (channels, expected.dtype) == (3, np.uint8), name
        self.listed.append({"name": f"{name} of {height} x {width}", "kind": kind, "file": f"{stem}.image", "height": height,
                            "width": width, "pixels": f"{stem}.rgb"})


def read(data):
    """RGB by Pillow: turned as EXIF says, the first picture, without alpha, which is dropped and not blended."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode == "P":
        image = image.convert("RGBA")
    elif image.mode in ("1", "LA"):
        image = image.convert("L")
    if image.mode == "RGBA":
        return np.asarray(image)[:, :, :3]
    return np.asarray(image.convert("RGB"))


def written(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif


# PNG


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(rows, depth):
    """Rows of samples as bytes, each with the filter that changes nothing before it."""
    height = rows.shape[0]
    if depth == 16:
        lines = rows.astype(">u2").reshape(height, -1).view(np.uint8)
    elif depth == 8:
        lines = rows.astype(np.uint8).reshape(height, -1)
    else:
        bits = np.unpackbits(rows.astype(np.uint8).reshape(height, -1, 1), axis=2)[:, :, 8 - depth :]
        lines = np.packbits(bits.reshape(height, -1), axis=1)
    return np.hstack([np.zeros([height, 1], np.uint8), lines]).tobytes()


def png(samples, depth, colour, interlaced, further=b""):
    """A PNG of samples [height, width, channels]; `colour` is the format's number for the type of colour."""
    height, width = samples.shape[:2]
    # Adam7: the first row and column of each pass, and its steps.
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [samples[top::down, left::right] for top, left, down, right in passes] if interlaced else [samples]
    data = b"".join(packed(part, depth) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + further + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def pngs(pictures):
    rng = pictures.rng
    for size in pictures.sizes(4):
        for channels, mode in ((1, "grey"), (2, "grey and alpha"), (3, "RGB"), (4, "RGBA")):
            image = pictures.picture(size, channels)
            pictures.add("png", mode, written(image, "PNG", compress_level=pictures.pick([0, 1, 9])))
            colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
            pictures.add("png interlaced", mode, png(pictures.pixels(size, channels), 8, colour, True))
            deep = rng.integers(0, 65_536, [*size, channels], dtype=np.uint16)
            data = png(deep, 16, colour, pictures.pick([False, True]))
            expected = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)[:, :, [0, 0, 0] if channels < 3 else [0, 1, 2]]
            if channels > 1:
                # Pillow cuts the lower byte off.
                assert np.abs(read(data).astype(int) - expected).max() <= 1
            pictures.add("png 16 bit", mode, data, expected)
        deep = Image.fromarray(rng.integers(0, 65_536, size, dtype=np.uint16))
        rounded = np.repeat((np.asarray(deep).astype(np.uint32) + 128)[:, :, None] // 257, 3, axis=2).astype(np.uint8)
        pictures.add("png 16 bit", "grey by Pillow", written(deep, "PNG"), rounded)
        pictures.add("png", "1 bit", written(pictures.picture(size, 1).convert("1"), "PNG"))
        for bits in (1, 2, 4, 8):
            palette = pictures.picture(size).quantize(1 << bits)
            pictures.add("png", f"palette of {bits} bits", written(palette, "PNG", bits=bits))
            alpha = rng.integers(0, 256, 1 << bits, dtype=np.uint8).tobytes()
            pictures.add("png", f"palette of {bits} bits and alpha", written(palette, "PNG", bits=bits, transparency=alpha))
            colours = rng.integers(0, 256, [1 << bits, 3], dtype=np.uint8)
            indices = rng.integers(0, 1 << bits, [*size, 1])
            further = chunk(b"PLTE", colours.tobytes())
            pictures.add("png interlaced", f"palette of {bits} bits", png(indices, bits, 3, True, further), colours[indices[:, :, 0]])
            scaled = np.repeat((indices * (255 // ((1 << bits) - 1))).astype(np.uint8), 3, axis=2)
            pictures.add("png interlaced", f"grey of {bits} bits", png(indices, bits, 0, True), scaled)
            pictures.add("png", f"grey of {bits} bits", png(indices, bits, 0, False), scaled)
        clear = pictures.pixels(size)
        pictures.add("png", "RGB with a clear colour", written(Image.fromarray(clear), "PNG", transparency=tuple(clear[0, 0].tolist())))


# JPEG and WebP


def jpegs(pictures):
    for size in pictures.sizes(8):
        for progressive in (False, True):
            options = lambda: {"quality": int(pictures.rng.integers(25, 101)), "progressive": progressive,
                               "optimize": pictures.pick([False, True]), "restart_marker_rows": pictures.pick([0, 0, 1])}
            name = "progressive" if progressive else "baseline"
            pictures.add("jpeg grey", name, written(pictures.picture(size, 1), "JPEG", **options()))
            for sampling in ("4:4:4", "4:2:2", "4:2:0"):
                data = written(pictures.picture(size), "JPEG", subsampling=sampling, **options())
                pictures.add(f"jpeg {sampling}", name, data)
            pictures.add("jpeg rgb", name, written(pictures.picture(size), "JPEG", keep_rgb=True, **options()))
            inks = Image.fromarray(pictures.pixels(size, 4), "CMYK")
            pictures.add("jpeg cmyk", name, written(inks, "JPEG", **options()))


def webps(pictures):
    for size in pictures.sizes(6):
        for channels in (3, 4):
            image = pictures.picture(size, channels)
            lossless = written(image, "WEBP", lossless=True, exact=pictures.pick([False, True]))
            pictures.add("webp lossless", image.mode, lossless)
            quality = int(pictures.rng.integers(10, 101))
            pictures.add("webp lossy", image.mode, written(image, "WEBP", quality=quality, method=pictures.pick([0, 4])))


def turns(pictures):
    for orientation in range(1, 9):
        for size in ((2, 3), (21, 40)):
            image, exif = pictures.picture(size), turned(orientation)
            name = f"orientation {orientation}"
            pictures.add("png", name, written(image, "PNG", exif=exif))
            pictures.add("webp lossless", name, written(image, "WEBP", lossless=True, exif=exif))
            pictures.add("webp lossy", name, written(image, "WEBP", exif=exif))
            pictures.add("jpeg 4:4:4", name, written(image, "JPEG", subsampling="4:4:4", quality=95, exif=exif))
            pictures.add("jpeg grey", name, written(image.convert("L"), "JPEG", exif=exif))


def animations(pictures):
    for size in ((1, 1), (30, 41)):
        for channels in (3, 4):
            first, *others = [pictures.picture(size, channels) for _ in range(3)]
            several = {"save_all": True, "append_images": others, "duration": 50}
            pictures.add("png animated", first.mode, written(first, "PNG", **several))
            pictures.add("webp animated", first.mode, written(first, "WEBP", lossless=True, **several))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seed", type=int)
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(arguments.seed, arguments.out)
    pngs(pictures)
    jpegs(pictures)
    webps(pictures)
    turns(pictures)
    animations(pictures)
    (arguments.out / "index.json").write_text(json.dumps({"kinds": KINDS, "pictures": pictures.listed}))


if __name__ == "__main__":
    main()
