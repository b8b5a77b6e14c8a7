"""Prints what examples/06-speech should answer for a recording: {"probabilities": […], "segments": [{"start", "end"}, …]}.

    speech_reference.py MODEL UTILS_VAD RECORDING.wav

onnxruntime runs silero-vad's model as the package's OnnxWrapper does. The segments, in samples, are made by the package's own
`get_speech_timestamps_from_probs` from UTILS_VAD, its utils_vad.py. That file imports torch for other functions; here it gets an
empty module of that name, so that the tests do not need torch.
"""

import importlib.util
import json
import sys
import types
import wave

import numpy as np
import onnxruntime

WINDOW, CONTEXT, RATE = 512, 64, 16_000


def package(path):
    torch = types.ModuleType("torch")
    torch.Tensor = object
    torch.device = lambda name: name
    torch.no_grad = lambda: lambda function: function
    sys.modules["torch"] = torch
    spec = importlib.util.spec_from_file_location("utils_vad", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def probabilities(model, samples):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    state = np.zeros((2, 1, 128), np.float32)
    context = np.zeros(CONTEXT, np.float32)
    rate = np.array(RATE, np.int64)
    samples = np.pad(samples, (0, -len(samples) % WINDOW))
    for window in samples.reshape(-1, WINDOW):
        heard = np.concatenate([context, window])
        output, state = session.run(None, {"input": heard[None], "state": state, "sr": rate})
        context = heard[-CONTEXT:]
        yield output.item()


def main(model, utils_vad, recording):
    with wave.open(recording) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32_768
    found = list(probabilities(model, samples))
    segments = package(utils_vad).get_speech_timestamps_from_probs(found, audio_length_samples=len(samples))
    json.dump({"probabilities": found, "segments": segments}, sys.stdout)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
