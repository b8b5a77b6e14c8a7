"""Compares the characters that the OCR example and rapidocr (Python) read right on the same pages.

    ocr_accuracy.py --pages FOLDER [--demo FOLDER] (--server URL | --results FOLDER) [--json FILE]
                    [--no-classifier]

PAGES holds the output of pages.py: NAME.png or NAME.jpg with NAME.json; the demo folder holds page.png and page.txt. URL is
the function's own (`…/fn/ocr`); with --results, FOLDER/NAME.json holds each answer of the function instead.

Both texts and the truth have runs of white space replaced by one space. The characters right of a page are the length of
the truth less the edit distance (insertions, deletions, substitutions), at least 0. rapidocr is run with its defaults; of
its own line order and rows sorted the way our function sorts them, the page counts the one that reads better. A second pair
of columns leaves white space out, because PP-OCRv4 often drops spaces between Latin words.

rapidocr's largest loss is its classifier, which turns whole lines by 180 degrees that were upright; --no-classifier runs it
without, so that reading alone is compared.

Exits with 1 when ours has fewer characters right in total than rapidocr, by either count.
"""

import argparse
import json
import re
import sys
import time
import urllib.request
from pathlib import Path

import numpy


def edit_distance(a, b):
    """The least number of insertions, deletions and substitutions that turn a into b."""
    a, b = numpy.array([ord(c) for c in a]), numpy.array([ord(c) for c in b])
    row, steps = numpy.arange(len(b) + 1), numpy.arange(len(b) + 1)
    for index, character in enumerate(a):
        best = numpy.empty(len(b) + 1, dtype=row.dtype)
        best[0] = index + 1
        best[1:] = numpy.minimum(row[:-1] + (b != character), row[1:] + 1)
        # A run of insertions: best[j] = min over i <= j of best[i] + (j - i).
        row = numpy.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def normalised(text, spaces):
    """White space as single spaces, or without any."""
    return re.sub(r"\s+", " " if spaces else "", text.strip())


def right(truth, text, spaces):
    """(characters right, characters of the truth)."""
    truth, text = normalised(truth, spaces), normalised(text, spaces)
    return max(0, len(truth) - edit_distance(text, truth)), len(truth)


def in_rows(lines):
    """Texts of (box, text), rows from top to bottom and left to right, along the lines' common slope."""
    if not lines:
        return ""
    boxes = numpy.array([box for box, _ in lines], dtype=float)
    edges = boxes[:, 1] - boxes[:, 0]
    wide = edges[edges[:, 0] > 2 * numpy.linalg.norm(boxes[:, 3] - boxes[:, 0], axis=1)]
    slope = numpy.median(wide[:, 1] / wide[:, 0]) if len(wide) else 0.0
    centres = boxes.mean(axis=1)
    middles = centres[:, 1] - slope * centres[:, 0]
    heights = numpy.linalg.norm(boxes[:, 3] - boxes[:, 0], axis=1)
    rows = []
    for index in numpy.argsort(middles, kind="stable"):
        row = rows[-1] if rows else None
        if row and middles[index] - numpy.mean(middles[row]) < 0.5 * min(heights[index], numpy.mean(heights[row])):
            row.append(index)
        else:
            rows.append([index])
    return "\n".join(" ".join(lines[i][1] for i in sorted(row, key=lambda i: boxes[i, 0, 0])) for row in rows)


def load_pages(folder, demo):
    """[(name, image file, truth)]"""
    pages = []
    if demo:
        pages.append(("demo", Path(demo) / "page.png", (Path(demo) / "page.txt").read_text(encoding="utf-8")))
    for path in sorted(Path(folder).glob("*.json")):
        image = next(path.with_suffix(end) for end in (".png", ".jpg") if path.with_suffix(end).exists())
        pages.append((path.stem, image, json.loads(path.read_text(encoding="utf-8"))["text"]))
    return pages


def ask(server, image):
    """The function's answer for one image file."""
    kind = "image/png" if image.suffix == ".png" else "image/jpeg"
    request = urllib.request.Request(server, data=image.read_bytes(), headers={"content-type": kind}, method="POST")
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def main():
    """Prints the table; exit code 1 when rapidocr reads more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", required=True, help="folder with the test pages")
    parser.add_argument("--demo", help="folder with page.png and page.txt")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--server", help="URL of the function")
    source.add_argument("--results", help="folder with NAME.json answers")
    parser.add_argument("--json", type=Path, help="file for the totals, for other programs")
    parser.add_argument("--no-classifier", action="store_true", help="run rapidocr without its 180-degree classifier")
    arguments = parser.parse_args()

    from PIL import Image
    from rapidocr_onnxruntime import RapidOCR

    rapidocr = RapidOCR()
    print(f"{'page':20} {'chars':>6} {'ours':>6} {'rapid':>6} {'%':>7} {'%':>7} | {'no space':>8} {'ours':>6} {'rapid':>6} | {'ms':>6} {'ms':>6}")
    totals = numpy.zeros(6, dtype=int)
    ours_ms = rapid_ms = 0.0
    for name, image, truth in load_pages(arguments.pages, arguments.demo):
        start = time.perf_counter()
        if arguments.server:
            answer = ask(arguments.server, image)
        else:
            answer = json.loads((Path(arguments.results) / f"{name}.json").read_text(encoding="utf-8"))
        middle = time.perf_counter()
        # Given as RGB pixels because rapidocr's own loader misreads palette images; OpenCV's order is BGR.
        lines = rapidocr(numpy.asarray(Image.open(image).convert("RGB"))[:, :, ::-1].copy(), use_cls=not arguments.no_classifier)[0] or []
        end = time.perf_counter()
        orders = ["\n".join(line[1] for line in lines), in_rows([(line[0], line[1]) for line in lines])]
        counts = []
        for spaces in (True, False):
            ours, length = right(truth, answer["text"], spaces)
            counts += [length, ours, max(right(truth, order, spaces)[0] for order in orders)]
        totals += counts
        ours_ms, rapid_ms = ours_ms + (middle - start) * 1e3, rapid_ms + (end - middle) * 1e3
        print_row(name, counts, (middle - start) * 1e3, (end - middle) * 1e3)
    print_row("total", totals, ours_ms, rapid_ms)
    if arguments.json:
        keys = ["characters", "ours", "rapidocr", "characters_without_space", "ours_without_space", "rapidocr_without_space"]
        arguments.json.write_text(json.dumps(dict(zip(keys, totals.tolist()))))
    sys.exit(int(totals[1] < totals[2] or totals[4] < totals[5]))


def print_row(name, counts, ours_ms, rapid_ms):
    """One line of the table."""
    chars, ours, rapid, dense, ours_dense, rapid_dense = counts
    share = [100 * n / max(1, chars) for n in (ours, rapid)]
    dense_share = [100 * n / max(1, dense) for n in (ours_dense, rapid_dense)]
    print(
        f"{name:20} {chars:6} {ours:6} {rapid:6} {share[0]:7.2f} {share[1]:7.2f} | {dense:8} "
        f"{dense_share[0]:6.2f} {dense_share[1]:6.2f} | {ours_ms:6.0f} {rapid_ms:6.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
