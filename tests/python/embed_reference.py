"""Prints what examples/03-embed should answer: a JSON list of vectors for a JSON list of sentences.

    embed_reference.py MODEL_FOLDER < sentences.json > vectors.json

MODEL_FOLDER is the output of minilm_onnx.py. Uses onnxruntime and Hugging Face's tokenizers; pools and normalises as
sentence-transformers does, in double precision.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def embed(folder, sentences):
    folder = Path(folder)
    limits = json.loads((folder / "assets/sentence_bert_config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "assets/tokenizer.json"))
    tokenizer.enable_truncation(limits["max_seq_length"])
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    vectors = []
    for sentence in sentences:
        encoding = tokenizer.encode(sentence)
        inputs = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        (states,) = session.run(None, {name: np.array([value], np.int64) for name, value in inputs.items()})
        vector = states[0].astype(np.float64).mean(axis=0)
        vectors.append((vector / np.linalg.norm(vector)).tolist())
    return vectors


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    json.dump(embed(sys.argv[1], json.load(sys.stdin)), sys.stdout)
