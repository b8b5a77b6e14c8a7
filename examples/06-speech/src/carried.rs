//! The state between two parts of a recording, as text that a client can keep. It never trusts what the client sends back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hearth_guest::{Error, Result};

use crate::segments::{Segmenter, WINDOW};

/// Numbers of the model's state: `[2, 1, 128]`.
pub(crate) const STATE: usize = 256;
/// Samples before a window that the model sees with it.
pub(crate) const CONTEXT: usize = 64;

const BYTES_OF_STATE: usize = STATE * 4;
const BYTES_OF_SEGMENTER: usize = 3 * 8;
/// The context and an incomplete window.
const MOST_BYTES_OF_SAMPLES: usize = (CONTEXT + WINDOW as usize - 1) * 2;

/// The state after a part of a recording.
#[derive(Debug, PartialEq)]
pub(crate) struct Carried {
    /// The model's state, little-endian `f32`.
    pub(crate) state: Vec<u8>,
    /// The state of the segments.
    pub(crate) segmenter: Segmenter,
    /// The context of the next window, and samples of an incomplete one; 16 bits each, little-endian.
    pub(crate) samples: Vec<u8>,
}

impl Carried {
    /// At the start of a recording.
    pub(crate) fn start() -> Carried {
        Carried { state: vec![0; BYTES_OF_STATE], segmenter: Segmenter::default(), samples: vec![0; CONTEXT * 2] }
    }

    /// For the client.
    pub(crate) fn encode(&self) -> String {
        let Segmenter { position, start, doubt } = self.segmenter;
        let mut bytes = self.state.clone();
        // The largest number of 64 bits stands for "none", so it is no place in a recording.
        for place in [Some(position), start, doubt] {
            bytes.extend_from_slice(&place.unwrap_or(u64::MAX).to_le_bytes());
        }
        bytes.extend_from_slice(&self.samples);
        STANDARD_NO_PAD.encode(bytes)
    }

    /// From the client.
    ///
    /// Errors: `invalid-argument` if it is not a result of [`Carried::encode`].
    pub(crate) fn decode(text: &str) -> Result<Carried> {
        let refused = || Error::invalid_argument("the header speech-state is not the `state` of an earlier answer");
        let bytes = STANDARD_NO_PAD.decode(text.trim()).map_err(|_| refused())?;
        let (state, bytes) = bytes.split_at_checked(BYTES_OF_STATE).ok_or_else(refused)?;
        let (places, samples) = bytes.split_at_checked(BYTES_OF_SEGMENTER).ok_or_else(refused)?;
        let finite = state.as_chunks().0.iter().all(|number| f32::from_le_bytes(*number).is_finite());
        let length = samples.len();
        if !finite || !(CONTEXT * 2..=MOST_BYTES_OF_SAMPLES).contains(&length) || !length.is_multiple_of(2) {
            return Err(refused());
        }
        let places =
            places.as_chunks().0.iter().map(|place| Some(u64::from_le_bytes(*place)).filter(|at| *at != u64::MAX));
        let [Some(position), start, doubt] = places.collect::<Vec<_>>()[..] else { return Err(refused()) };
        let segmenter = Segmenter { position, start, doubt };
        Ok(Carried { state: state.to_vec(), segmenter, samples: samples.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_comes_back_and_nothing_else_does() {
        let mut carried = Carried::start();
        assert_eq!(Carried::decode(&carried.encode()).unwrap(), carried);
        carried.state[5] = 7;
        carried.segmenter = Segmenter { position: 512, start: Some(0), doubt: None };
        carried.samples.extend([1, 2]);
        let text = carried.encode();
        assert_eq!(Carried::decode(&text).unwrap(), carried);
        let not_finite = Carried { state: f32::NAN.to_le_bytes().repeat(STATE), ..Carried::start() };
        let too_long = Carried { samples: vec![0; MOST_BYTES_OF_SAMPLES + 2], ..Carried::start() };
        for text in ["", "null", "=", &text[..100], &text[..text.len() - 2], &not_finite.encode(), &too_long.encode()] {
            assert_eq!(Carried::decode(text).unwrap_err().kind(), "invalid-argument", "{text}");
        }
    }
}
