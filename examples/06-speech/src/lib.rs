//! Finds the speech in a recording, as silero-vad does; the model's state is passed from run to run, and from call to call.

use hearth_guest::{DType, Error, Model, Request, Response, Result, Tensor, handler};
use serde::Serialize;

mod carried;
mod segments;
mod wav;

use carried::{CONTEXT, Carried};
use segments::{Segment, WINDOW};

/// Runs whose probabilities stay on the device until they are read together.
const READ_TOGETHER: usize = 256;

#[derive(Serialize)]
struct Answer {
    /// Of the recording so far.
    seconds: f64,
    /// Those that ended with this part, in seconds from the recording's start.
    segments: Vec<Seconds>,
    /// One for each 32 ms, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    probabilities: Option<Vec<f32>>,
    /// For the next part, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
}

#[derive(Serialize)]
struct Seconds {
    start: f64,
    end: f64,
}

#[handler(models = ["silero-vad"])]
fn speech(request: Request) -> Result<Response> {
    let more = request.parameter_as::<u8>("more")?.is_some_and(|more| more != 0);
    let shown = request.parameter_as::<u8>("probabilities")?.is_some_and(|shown| shown != 0);
    let mut carried = request.header("speech-state").map_or_else(|| Ok(Carried::start()), Carried::decode)?;
    carried.samples.extend_from_slice(wav::samples(request.body())?);
    let held = (carried.samples.len() / 2).saturating_sub(CONTEXT) as u64;
    let length = carried.segmenter.position.saturating_add(held);

    let windows = if more { held / WINDOW } else { held.div_ceil(WINDOW) };
    let probabilities = run(&mut carried, windows as usize)?;
    let mut segments: Vec<Segment> = probabilities.iter().filter_map(|value| carried.segmenter.take(*value)).collect();
    if !more {
        segments.extend(carried.segmenter.finish(length));
    }
    let seconds = |samples: u64| samples as f64 / f64::from(wav::RATE);
    let segments = segments.iter().map(|segment| Seconds { start: seconds(segment.start), end: seconds(segment.end) });
    Response::json(&Answer {
        seconds: seconds(length),
        segments: segments.collect(),
        probabilities: shown.then_some(probabilities),
        state: more.then(|| carried.encode()),
    })
}

/// Runs the model on this many windows and keeps the samples after them. Gives the probability that each is speech.
fn run(carried: &mut Carried, windows: usize) -> Result<Vec<f32>> {
    let window = WINDOW as usize;
    let samples = CONTEXT + windows * window;
    // The last window of a recording is filled up with silence.
    carried.samples.resize(carried.samples.len().max(samples * 2), 0);
    let sound = Tensor::from_bytes(DType::S16, &[samples], &carried.samples[..samples * 2])?;
    let sound = sound.cast(DType::F32)?.multiply(&Tensor::from_slice(&[], &[1.0f32 / 32_768.0])?)?;
    let rate = Tensor::from_slice(&[], &[i64::from(wav::RATE)])?;
    let mut state = Tensor::from_bytes(DType::F32, &[2, 1, 128], &carried.state)?;

    let model = Model::open("silero-vad")?;
    let mut probabilities = Vec::with_capacity(windows);
    let mut unread = Vec::with_capacity(READ_TOGETHER);
    for at in 0..windows {
        let start = (at * window) as i64;
        let input = sound.slice(0, start..start + (CONTEXT + window) as i64)?.reshape(&[1, -1])?;
        let mut outputs = model.infer([("input", &input), ("state", &state), ("sr", &rate)])?;
        state = outputs.take("stateN")?;
        unread.push(outputs.take("output")?);
        if unread.len() == READ_TOGETHER || at + 1 == windows {
            let all: Vec<&Tensor> = unread.iter().collect();
            probabilities.extend(Tensor::concat(&all, 0)?.to_vec::<f32>()?);
            unread.clear();
        }
    }
    if probabilities.len() != windows {
        return Err(Error::internal("the model did not give one probability for each window"));
    }
    carried.state = state.to_bytes()?;
    carried.samples.drain(..windows * window * 2);
    Ok(probabilities)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_guest_testing::{TestHost, TestModel};
    use serde_json::Value;

    /// A model that takes loud windows for speech, and has state: half of its answer is its previous answer.
    fn host() -> TestHost {
        let model = TestModel::new("silero-vad").input("input", DType::F32, "batch samples");
        let model = model.input("state", DType::F32, "2 batch 128").input("sr", DType::S64, "");
        let model = model.output("output", DType::F32, "batch 1").output("stateN", DType::F32, "2 batch 128");
        TestHost::new().model(model.runs(|inputs| {
            assert_eq!(inputs.get("sr")?.to_vec::<i64>()?, [16_000]);
            assert_eq!(inputs.get("input")?.shape(), [1, 576]);
            let loudest = inputs.get("input")?.to_vec::<f32>()?.into_iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let before = inputs.get("state")?.to_vec::<f32>()?[0];
            let now = (loudest + before) / 2.0;
            Ok(vec![Tensor::from_slice(&[1, 1], &[now])?, Tensor::from_slice(&[2, 1, 128], &[now; 256])?])
        }))
    }

    /// Silence, a loud second, silence, and a loud end.
    fn recording() -> Vec<i16> {
        let loud = |from: usize, to: usize| move |at: usize| (from..to).contains(&at);
        let (first, second) = (loud(8_000, 24_000), loud(40_000, 50_100));
        (0..50_100).map(|at| if first(at) || second(at) { 30_000 - (at % 5) as i16 } else { 0 }).collect()
    }

    fn call(host: &TestHost, query: &str, state: Option<&str>, samples: &[i16]) -> Value {
        let mut request = Request::new("POST", query).with_body(wav::of(samples));
        if let Some(state) = state {
            request = request.with_header("speech-state", state);
        }
        host.call(speech, request).unwrap().json()
    }

    #[test]
    fn parts_of_a_recording_give_what_the_whole_gives() {
        let (host, recording) = (host(), recording());
        let whole = call(&host, "?probabilities=1", None, &recording);
        assert_eq!(whole["segments"].as_array().unwrap().len(), 2, "{whole}");
        assert_eq!(whole["segments"][1]["end"], 50_100.0 / 16_000.0);
        assert_eq!((whole["probabilities"].as_array().unwrap().len(), &whole["state"]), (98, &Value::Null));
        for cuts in [vec![512], vec![1, 2, 3], vec![8_000, 8_100, 24_000], vec![0, 47_777, 50_100]] {
            let (mut from, mut state) = (0, None);
            let (mut segments, mut probabilities) = (Vec::new(), Vec::new());
            for to in cuts.iter().copied().chain([recording.len()]) {
                let last = to == recording.len() && from == *cuts.last().unwrap();
                let query = if last { "?probabilities=1" } else { "?probabilities=1&more=1" };
                let answer = call(&host, query, state.as_deref(), &recording[from..to]);
                segments.extend(answer["segments"].as_array().unwrap().clone());
                probabilities.extend(answer["probabilities"].as_array().unwrap().clone());
                state = answer["state"].as_str().map(str::to_owned);
                assert_eq!(state.is_none(), last);
                from = to;
            }
            assert_eq!(Value::from(segments), whole["segments"], "{cuts:?}");
            assert_eq!(Value::from(probabilities), whole["probabilities"], "{cuts:?}");
        }
    }

    #[test]
    fn an_empty_recording_has_no_speech_and_a_wrong_one_is_refused() {
        let answer = call(&host(), "", None, &[]);
        assert_eq!((&answer["seconds"], answer["segments"].as_array().map(Vec::len)), (&Value::from(0.0), Some(0)));
        let refused = |request: Request| host().call(speech, request).unwrap_err();
        assert!(refused(Request::new("POST", "").with_body("words")).message().contains("ffmpeg"));
        let request = Request::new("POST", "?more=yes").with_body(wav::of(&[]));
        assert!(refused(request).message().contains("`more`"));
        let request = Request::new("POST", "").with_body(wav::of(&[])).with_header("speech-state", "x");
        assert!(refused(request).message().contains("speech-state"));
    }
}
