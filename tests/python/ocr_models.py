"""Lays out the models of the OCR example from the rapidocr-onnxruntime 1.4.4 wheel. It never touches the network.

    ocr_models.py SOURCE OUT

SOURCE is the wheel, or a folder with the .onnx files below. Writes, with the same bytes every time:

    OUT/ocr-detect/model.onnx                     PP-OCRv4 text detection
    OUT/ocr-recognize/{model.onnx,assets/keys.txt}  PP-OCRv4 text recognition; one character a line, as the model counts them
    OUT/ocr-classify/model.onnx                   PP-OCR v2 direction of a line: 0 or 180 degrees

Needs the Python standard library only: the characters are in the recogniser's metadata, which is read from the file's
protobuf fields by hand (ModelProto.metadata_props = 14; StringStringEntryProto.key = 1, .value = 2).
"""

import hashlib
import sys
import zipfile
from pathlib import Path

# Model name: (file in the wheel below rapidocr_onnxruntime/models, SHA-256)
MODELS = {
    "ocr-detect": (
        "ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    ),
    "ocr-recognize": (
        "ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    ),
    "ocr-classify": (
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
    ),
}


def varint(data, position):
    """(number, position after it) of a protobuf variable-length integer."""
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7


def fields(data):
    """(field number, value) for each field of a protobuf message; values of length-delimited fields are memoryviews."""
    position = 0
    while position < len(data):
        tag, position = varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = varint(data, position)
        elif kind in (1, 2, 5):
            length = {1: 8, 5: 4}.get(kind)
            if length is None:
                length, position = varint(data, position)
            value, position = data[position : position + length], position + length
        else:
            raise ValueError(f"protobuf wire type {kind} at byte {position}")
        yield tag >> 3, value


def metadata(model):
    """The string metadata of an ONNX file."""
    entries = {}
    for number, value in fields(memoryview(model)):
        if number == 14:
            entry = dict(fields(value))
            entries[bytes(entry.get(1, b"")).decode("utf-8")] = bytes(entry.get(2, b"")).decode("utf-8")
    return entries


def read(source, file):
    """The bytes of one model file of a wheel or folder."""
    if source.is_dir():
        return (source / file).read_bytes()
    with zipfile.ZipFile(source) as wheel:
        return wheel.read(f"rapidocr_onnxruntime/models/{file}")


def main():
    """Checks the digests and writes the folders."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    for name, (file, digest) in MODELS.items():
        model = read(source, file)
        if hashlib.sha256(model).hexdigest() != digest:
            raise SystemExit(f"{file} is not the file of rapidocr-onnxruntime 1.4.4 (its SHA-256 differs)")
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(model)
        if name == "ocr-recognize":
            keys = metadata(model)["character"]
            (folder / "assets").mkdir(exist_ok=True)
            (folder / "assets" / "keys.txt").write_bytes((keys.rstrip("\n") + "\n").encode("utf-8"))


if __name__ == "__main__":
    main()
