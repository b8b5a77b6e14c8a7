//! Writes the vocabulary of the guests `vocabulary` and `vocabulary-each-time`: 30,000 made-up words and their numbers, as a
//! tokenizer's file has them. It never differs from one build to the next.

use std::fmt::Write;
use std::path::PathBuf;

const SYLLABLES: [&str; 20] = [
    "ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu", "va", "we", "xi", "yo",
    "zu",
];

fn main() {
    let mut json = String::from("{");
    for number in 0..30_000usize {
        let mut word = String::new();
        let mut rest = number;
        for _ in 0..4 {
            word.push_str(SYLLABLES[rest % SYLLABLES.len()]);
            rest /= SYLLABLES.len();
        }
        let comma = if number == 0 { "" } else { "," };
        write!(json, "{comma}\"{word}\":{number}").expect("a string takes text");
    }
    json.push('}');
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    std::fs::write(folder.join("vocabulary.json"), json).expect("OUT_DIR takes a file");
    println!("cargo::rerun-if-changed={}/../vocabulary/build.rs", env!("CARGO_MANIFEST_DIR"));
}
