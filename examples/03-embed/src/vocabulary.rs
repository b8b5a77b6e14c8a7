//! The words of a WordPiece model and their numbers. It is cheap enough to build in each instance: one pass, three allocations.
//! It never copies words.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

/// A table from words to numbers that borrows the words.
pub struct Vocabulary<'a> {
    words: Vec<(Cow<'a, str>, u32)>,
    /// Indices into `words` plus 1, by hash with linear probing; 0 is free. Its length is a power of two.
    slots: Vec<u32>,
    longest: usize,
}

impl<'a> Vocabulary<'a> {
    fn new() -> Vocabulary<'a> {
        // Room for 32,767 words, the size of BERT's vocabularies, without growing.
        Vocabulary { words: Vec::with_capacity(1 << 15), slots: vec![0; 1 << 16], longest: 0 }
    }

    fn insert(&mut self, word: Cow<'a, str>, number: u32) {
        if (self.words.len() + 1) * 2 > self.slots.len() {
            self.slots = vec![0; self.slots.len() * 2];
            for index in 0..self.words.len() {
                self.place(index);
            }
        }
        self.longest = self.longest.max(word.len());
        self.words.push((word, number));
        self.place(self.words.len() - 1);
    }

    fn place(&mut self, index: usize) {
        let mask = self.slots.len() - 1;
        let mut slot = hash("", &self.words[index].0) as usize & mask;
        while self.slots[slot] != 0 {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = index as u32 + 1;
    }

    /// The number of the word `prefix` + `rest`.
    pub fn get(&self, prefix: &str, rest: &str) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut slot = hash(prefix, rest) as usize & mask;
        loop {
            let index = self.slots[slot].checked_sub(1)? as usize;
            let (word, number) = &self.words[index];
            if word.strip_prefix(prefix) == Some(rest) {
                return Some(*number);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The length of the longest word in bytes.
    pub fn longest(&self) -> usize {
        self.longest
    }
}

/// FNV-1a of both parts together.
fn hash(prefix: &str, rest: &str) -> u32 {
    let bytes = prefix.bytes().chain(rest.bytes());
    let hash = bytes.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash ^ hash >> 15
}

impl<'de: 'a, 'a> Deserialize<'de> for Vocabulary<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Vocabulary<'a>, D::Error> {
        struct Words;

        impl<'de> Visitor<'de> for Words {
            type Value = Vocabulary<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of words and numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary<'de>, A::Error> {
                #[derive(Deserialize)]
                struct Word<'a>(#[serde(borrow)] Cow<'a, str>);

                let mut vocabulary = Vocabulary::new();
                while let Some((Word(word), number)) = map.next_entry::<Word<'de>, u32>()? {
                    vocabulary.insert(word, number);
                }
                Ok(vocabulary)
            }
        }

        deserializer.deserialize_map(Words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whole_and_in_two_parts() {
        let vocabulary: Vocabulary<'_> = serde_json::from_str(r####"{"a":1,"##a":2,"\"":3,"é":4,"##":5}"####).unwrap();
        for (prefix, rest, number) in [
            ("", "a", Some(1)),
            ("##", "a", Some(2)),
            ("", "##a", Some(2)),
            ("", "\"", Some(3)),
            ("", "é", Some(4)),
            ("##", "", Some(5)),
            ("", "", None),
            ("", "b", None),
        ] {
            assert_eq!(vocabulary.get(prefix, rest), number, "{prefix}{rest}");
        }
        assert_eq!(vocabulary.longest(), 3);
    }

    #[test]
    fn it_grows() {
        let mut vocabulary = Vocabulary::new();
        for number in 0..100_000 {
            vocabulary.insert(Cow::Owned(number.to_string()), number);
        }
        for number in 0..100_000 {
            assert_eq!(vocabulary.get("", &number.to_string()), Some(number));
        }
        assert_eq!(vocabulary.get("", "100000"), None);
    }
}
