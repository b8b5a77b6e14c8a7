"""Prints what examples/02-file-type should answer, one JSON object a line for each file.

    file_type_reference.py FILE...

Uses the Python package magika in its default mode.
"""

import json
import sys
from pathlib import Path

from magika import Magika


def describe(magika, data):
    prediction = magika.identify_bytes(data).prediction
    output, model = prediction.output, str(prediction.dl.label)
    return {
        "label": str(output.label),
        "score": prediction.score,
        "mime_type": output.mime_type,
        "group": output.group,
        "description": output.description,
        "is_text": output.is_text,
        "model_label": None if model == "undefined" else model,
    }


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    magika = Magika()
    for name in sys.argv[1:]:
        print(json.dumps(describe(magika, Path(name).read_bytes())))
