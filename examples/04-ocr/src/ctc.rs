//! Turns the recogniser's best character at each step into text: greedy decoding of connectionist temporal classification. It
//! never knows where the characters are in the image.

/// The index of "no character" in the model's output.
const BLANK: usize = 0;

/// The characters that the model knows. Its output counts a blank first, then the characters, then a space.
pub struct Keys(Vec<char>);

impl Keys {
    /// From the model's asset: one character per line.
    pub fn parse(text: &str) -> Keys {
        Keys(text.lines().filter_map(|line| line.chars().next()).collect())
    }

    /// The index of the space in the model's output; the output has one more entry than this.
    pub fn space(&self) -> usize {
        self.0.len() + 1
    }

    fn character(&self, index: usize) -> Option<char> {
        if index == self.space() { Some(' ') } else { self.0.get(index.checked_sub(1)?).copied() }
    }
}

/// The text of one line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// The characters, without space at the ends.
    pub text: String,
    /// The mean of the characters' probabilities, as PP-OCR gives it; 0 where nothing was read.
    pub score: f32,
}

/// Reads one line. For each step there is the best entry, its probability, and the probability of a space.
///
/// The model often leaves out the space between two words of a Latin script, but gives it some probability: if the steps between
/// two characters together give the space a small probability, one is inserted.
pub fn decode(keys: &Keys, best: &[i64], probabilities: &[f32], spaces: &[f32]) -> Line {
    let mut characters: Vec<char> = Vec::new();
    let (mut sum, mut count) = (0.0f64, 0u32);
    let (mut previous, mut between) = (BLANK, 0.0);
    for ((index, probability), space) in best.iter().zip(probabilities).zip(spaces) {
        let index = usize::try_from(*index).unwrap_or(BLANK);
        if index == BLANK {
            between += space;
        } else if index != previous
            && let Some(character) = keys.character(index)
        {
            if wants_space(&characters, character, between) {
                characters.push(' ');
            }
            characters.push(character);
            sum += f64::from(*probability);
            count += 1;
        }
        if index != BLANK {
            between = 0.0;
        }
        previous = index;
    }
    let score = if count == 0 { 0.0 } else { (sum / f64::from(count)) as f32 };
    Line { text: tidied(characters), score }
}

/// Whether a space belongs between the characters read so far and the next one, given the space's probability between them.
fn wants_space(read: &[char], next: char, probability: f32) -> bool {
    let Some(last) = read.last().copied() else { return false };
    if last == ' ' || next == ' ' {
        return false;
    }
    let before = read.len().checked_sub(2).and_then(|index| read.get(index)).copied().unwrap_or(' ');
    let in_number = before.is_ascii_digit() && matches!(last, '.' | ',' | ':') && next.is_ascii_digit();
    let seldom = in_number
        || matches!(last, '(' | '[' | '{' | '@' | '/' | '-' | '“' | '‘')
        || matches!(
            next,
            '.' | ',' | ';' | ':' | '!' | '?' | ')' | ']' | '}' | '%' | '@' | '/' | '-' | '\'' | '’' | '”'
        );
    probability > if seldom { 0.5 } else { 0.03 }
}

/// One space at most between characters and none at the ends. In a line without East Asian characters the full-width forms of
/// ASCII, which the model takes for the plain ones at times, become plain.
fn tidied(characters: Vec<char>) -> String {
    let wide = |character: char| matches!(character, '\u{ff01}'..='\u{ff5e}');
    let asian =
        characters.iter().any(|character| *character >= '\u{2e80}' && *character != '\u{3000}' && !wide(*character));
    let plain: String = characters
        .into_iter()
        .map(|character| match character {
            '\u{3000}' => ' ',
            _ if wide(character) && !asian => char::from_u32(character as u32 - 0xfee0).unwrap_or(character),
            _ => character,
        })
        .collect();
    plain.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes steps written as characters; `_` is a blank, digits are blanks in which a space has that many tenths.
    fn read(steps: &str) -> String {
        let keys = Keys::parse("a\nb\nc\n.\n,\n汉\n（\n７\nx\n");
        let (mut best, mut spaces) = (Vec::new(), Vec::new());
        for step in steps.chars() {
            spaces.push(step.to_digit(10).map_or(0.0, |tenths| tenths as f32 / 10.0));
            best.push(match step {
                '_' | '0'..='9' => 0,
                ' ' => keys.space() as i64,
                _ => keys.0.iter().position(|key| *key == step).map_or(0, |index| index as i64 + 1),
            });
        }
        decode(&keys, &best, &vec![1.0; best.len()], &spaces).text
    }

    #[test]
    fn repeats_are_one_character_unless_a_blank_parts_them() {
        for (steps, text) in [
            ("__aa_bb__", "ab"),
            ("aabb", "ab"),
            ("a_a", "aa"),
            ("aa_aa", "aa"),
            ("", ""),
            ("____", ""),
            ("a b", "a b"),
            (" a  b ", "a b"),
            ("a_ _b", "a b"),
        ] {
            assert_eq!(read(steps), text, "{steps}");
        }
    }

    #[test]
    fn a_space_that_the_model_only_thinks_of_is_set_between_words() {
        for (steps, text) in [
            ("a1b", "a b"),
            ("a_1_b", "a b"),
            ("a0b", "ab"),
            ("11a", "a"),
            ("a11", "a"),
            ("a1.", "a."),
            ("a6.", "a ."),
            ("a.1b", "a. b"),
            ("a1 1b", "a b"),
            ("a1a", "a a"),
        ] {
            assert_eq!(read(steps), text, "{steps}");
        }
        assert!(!wants_space(&['2', ','], '7', 0.4));
        assert!(wants_space(&['o', '.'], '7', 0.04));
    }

    #[test]
    fn full_width_forms_are_plain_in_latin_lines_only() {
        assert_eq!(read("a_（_７"), "a(7");
        assert_eq!(read("汉_（_７"), "汉（７");
    }

    #[test]
    fn the_score_is_the_mean_over_characters() {
        let keys = Keys::parse("a\nb\n");
        let line = decode(&keys, &[0, 1, 1, 2, 0], &[0.9, 0.8, 0.1, 0.4, 0.9], &[0.0; 5]);
        assert_eq!(line.text, "ab");
        assert!((line.score - 0.6).abs() < 1e-6);
        assert_eq!(decode(&keys, &[], &[], &[]).score, 0.0);
        // Entries that are negative or not in the keys are no characters.
        assert_eq!(decode(&keys, &[9, -1, 1], &[0.5; 3], &[0.0; 3]).text, "a");
    }
}
