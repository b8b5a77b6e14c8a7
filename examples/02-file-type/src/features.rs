//! Turns bytes into the model's input; it never calls the host.

use crate::config::Config;

/// The features of an input.
#[derive(Debug, PartialEq, Eq)]
pub enum Features {
    /// The input is too short for the model; the label follows from the bytes alone.
    Known(&'static str),
    /// The beginning and the end, one token for each byte, padded.
    Tokens(Vec<i32>),
}

impl Features {
    /// The features of a whole input.
    pub fn extract(config: &Config<'_>, bytes: &[u8]) -> Features {
        if bytes.is_empty() {
            return Features::Known("empty");
        }
        if bytes.len() < config.min_file_size_for_dl {
            return Features::Known(label_of_few(bytes));
        }
        let block = bytes.len().min(config.block_size);
        let first = &bytes[..block];
        let last = &bytes[bytes.len() - block..];
        let start = first.iter().position(|byte| !is_space(*byte)).unwrap_or(block);
        let beginning = &first[start..];
        if beginning.len() < config.min_file_size_for_dl {
            return Features::Known(label_of_few(first));
        }
        let beginning = &beginning[..beginning.len().min(config.beg_size)];
        let end = &last[..last.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1)];
        let end = &end[end.len().saturating_sub(config.end_size)..];

        let mut tokens = Vec::with_capacity(config.beg_size + config.end_size);
        let padding = |count| std::iter::repeat_n(config.padding_token, count);
        tokens.extend(beginning.iter().map(|byte| i32::from(*byte)));
        tokens.extend(padding(config.beg_size - beginning.len()));
        tokens.extend(padding(config.end_size - end.len()));
        tokens.extend(end.iter().map(|byte| i32::from(*byte)));
        Features::Tokens(tokens)
    }
}

/// Whitespace as in Python's `bytes.strip`: it includes the vertical tab, unlike Rust's.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn label_of_few(bytes: &[u8]) -> &'static str {
    if std::str::from_utf8(bytes).is_ok() { "txt" } else { "unknown" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"beg_size":10,"mid_size":0,"end_size":6,"use_inputs_at_offsets":false,
        "medium_confidence_threshold":0.5,"min_file_size_for_dl":4,"padding_token":256,"block_size":16,
        "target_labels_space":[],"thresholds":{},"overwrite_map":{}}"#;

    fn check(bytes: &[u8], beginning: &[u8], end: &[u8]) {
        let config = Config::parse(CONFIG.as_bytes()).unwrap();
        let mut wanted: Vec<i32> = beginning.iter().map(|byte| i32::from(*byte)).collect();
        wanted.resize(16 - end.len(), 256);
        wanted.extend(end.iter().map(|byte| i32::from(*byte)));
        assert_eq!(Features::extract(&config, bytes), Features::Tokens(wanted), "{bytes:?}");
    }

    #[test]
    fn beginning_and_end_are_stripped_cut_and_padded() {
        check(b"abcd", b"abcd", b"abcd");
        check(b" \t\n\r\x0b\x0cabcde ", b"abcde ", b"\x0cabcde");
        check(b"0123456789abcdefghijklmnopqrstuvwxyz", b"0123456789", b"uvwxyz");
        // Whitespace is removed only within one block of 16.
        check(b"abcd                                ", b"abcd      ", b"");
    }

    #[test]
    fn too_little_is_labelled_without_the_model() {
        let config = Config::parse(CONFIG.as_bytes()).unwrap();
        for (bytes, label) in [
            (&b""[..], "empty"),
            (b"a", "txt"),
            (b"\xff", "unknown"),
            (b"abc", "txt"),
            (b"             abc", "txt"),
            (b"            \xc3ab", "unknown"),
            // The block of 16 has too few bytes, and the bytes after it are not read.
            (b"               a\xff\xff\xff\xff\xff", "txt"),
            (b"               \xffaaaaaaaa", "unknown"),
        ] {
            assert_eq!(Features::extract(&config, bytes), Features::Known(label), "{bytes:?}");
        }
    }
}
