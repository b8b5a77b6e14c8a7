//! Reads a WAV's samples without a copy. It never converts: another format is an error that says how to convert it.

use hearth_guest::{Error, Result};

/// Samples a second that the model takes.
pub(crate) const RATE: u32 = 16_000;

const PCM: u16 = 1;
/// The real format is in the first bytes of a GUID at byte 24 of the chunk.
const EXTENSIBLE: u16 = 0xfffe;

/// The samples of a WAV: 16 bits each, little-endian.
///
/// Errors: `invalid-argument` for what is no WAV, is cut off, or has another format than PCM of 16 bits, mono, 16 kHz.
pub(crate) fn samples(file: &[u8]) -> Result<&[u8]> {
    let [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', chunks @ ..] = file else {
        return Err(refused("the body is no WAV"));
    };
    let (mut rest, mut known) = (chunks, false);
    while let [name @ .., l0, l1, l2, l3] = rest.get(..8).unwrap_or_default() {
        let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        let data = &rest[8..];
        match name {
            b"fmt " => {
                check(data.get(..length).ok_or_else(cut_off)?)?;
                known = true;
            }
            b"data" if !known => return Err(refused("the WAV has samples before their format")),
            // A program that writes to a pipe cannot know the length, and writes the largest value or 0.
            b"data" if length >= u32::MAX as usize - 0xff || (length == 0 && !data.is_empty()) => return whole(data),
            b"data" => return whole(data.get(..length).ok_or_else(cut_off)?),
            _ => {}
        }
        // Chunks begin at even places.
        rest = data.get(length.saturating_add(length % 2)..).ok_or_else(cut_off)?;
    }
    Err(refused("the WAV has no samples"))
}

fn check(format: &[u8]) -> Result<()> {
    let Some((head, more)) = format.split_first_chunk::<16>() else { return Err(cut_off()) };
    let word = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let rate = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let coding = match (word(0), more) {
        (EXTENSIBLE, [_, _, _, _, _, _, _, _, low, high, ..]) => u16::from_le_bytes([*low, *high]),
        (coding, _) => coding,
    };
    let (channels, bits) = (word(2), word(14));
    if (coding, channels, rate, bits) == (PCM, 1, RATE, 16) {
        return Ok(());
    }
    let coding = if coding == PCM { "PCM".to_owned() } else { format!("format {coding}") };
    Err(refused(&format!("the WAV is {coding} of {bits} bits with {channels} channels at {rate} Hz")))
}

fn whole(data: &[u8]) -> Result<&[u8]> {
    if data.len().is_multiple_of(2) { Ok(data) } else { Err(cut_off()) }
}

fn cut_off() -> Error {
    Error::invalid_argument("the WAV ends early: it was cut off")
}

fn refused(what: &str) -> Error {
    Error::invalid_argument(format!(
        "{what}; send a WAV of PCM 16 bit, mono, 16 kHz: ffmpeg -i INPUT -ac 1 -ar 16000 -c:a pcm_s16le OUTPUT.wav"
    ))
}

/// A WAV of these samples.
#[cfg(test)]
pub(crate) fn of(samples: &[i16]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data".to_vec();
    file.extend_from_slice(&(data.len() as u32).to_le_bytes());
    file.extend_from_slice(&data);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pcm_of_16_bits_mono_at_16_khz_is_taken() {
        let file = of(&[1, -2, 3]);
        assert_eq!(samples(&file).unwrap(), [1, 0, 0xfe, 0xff, 3, 0]);
        // An odd chunk before the samples, and an unknown length.
        let mut piped = file[..36].to_vec();
        piped.extend_from_slice(b"LIST\x03\0\0\0abc\0data\xff\xff\xff\xff\x07\0");
        assert_eq!(samples(&piped).unwrap(), [7, 0]);
        let with = |at: usize, byte: u8| {
            let mut file = file.clone();
            file[at] = byte;
            file
        };
        for (file, part) in [
            (b"".to_vec(), "no WAV"),
            (b"ID3\x03 an mp3 of some length".to_vec(), "ffmpeg"),
            (with(20, 3), "format 3 of 16 bits"),
            (with(22, 2), "2 channels"),
            (with(25, 0xbb), "Hz"),
            (with(34, 24), "24 bits"),
            (with(36, b'x'), "no samples"),
            (with(12, b'x'), "before their format"),
            (with(40, 7), "cut off"),
            (with(16, 200), "cut off"),
            (file[..30].to_vec(), "cut off"),
            (file[..20].to_vec(), "cut off"),
        ] {
            let error = samples(&file).map(drop).unwrap_err();
            assert!(error.kind() == "invalid-argument" && error.message().contains(part), "{part}: {error}");
        }
        for length in 0..file.len() {
            samples(&file[..length]).map(drop).unwrap_err();
        }
    }
}
