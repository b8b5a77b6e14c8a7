//! Turns probabilities into segments, by the rule and with the defaults of silero-vad's `get_speech_timestamps`; it never reads
//! samples.

/// Samples of one probability.
pub(crate) const WINDOW: u64 = 512;

/// Speech begins here …
const BEGINS: f32 = 0.5;
/// … and is in doubt below this.
const IN_DOUBT: f32 = 0.35;
/// Samples in doubt after which speech is over: 100 ms.
const SILENCE: u64 = 1_600;
/// Samples that speech must be longer than: 250 ms.
const SHORTEST: u64 = 4_000;
/// Samples that a segment gets at each end: 30 ms. Two of them are less than `SILENCE`, so segments never meet.
const MARGIN: u64 = 480;

/// A part with speech, in samples from the start of the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// The state of the segment that is not complete yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segmenter {
    /// Samples read so far.
    pub(crate) position: u64,
    /// Where the speech that is not over began.
    pub(crate) start: Option<u64>,
    /// Since when it is in doubt.
    pub(crate) doubt: Option<u64>,
}

impl Segmenter {
    /// Takes the probability of the next window. Gives the segment that ends with it, if any.
    pub(crate) fn take(&mut self, probability: f32) -> Option<Segment> {
        let here = self.position;
        self.position = here.saturating_add(WINDOW);
        if probability >= BEGINS {
            self.doubt = None;
            self.start.get_or_insert(here);
            return None;
        }
        let start = self.start.filter(|_| probability < IN_DOUBT)?;
        let doubt = *self.doubt.get_or_insert(here);
        if here.saturating_sub(doubt) < SILENCE {
            return None;
        }
        (self.start, self.doubt) = (None, None);
        segment(start, doubt, u64::MAX)
    }

    /// The segment that ends with the recording, which has `length` samples.
    pub(crate) fn finish(self, length: u64) -> Option<Segment> {
        segment(self.start?, length, length)
    }
}

fn segment(start: u64, end: u64, length: u64) -> Option<Segment> {
    let long = end.saturating_sub(start) > SHORTEST;
    long.then(|| Segment { start: start.saturating_sub(MARGIN), end: end.saturating_add(MARGIN).min(length) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(probabilities: &[(f32, usize)], length: u64, wanted: &[(u64, u64)]) {
        let mut segmenter = Segmenter::default();
        let all = probabilities.iter().flat_map(|(value, count)| std::iter::repeat_n(*value, *count));
        let mut found: Vec<Segment> = all.filter_map(|value| segmenter.take(value)).collect();
        found.extend(segmenter.finish(length));
        let found: Vec<(u64, u64)> = found.iter().map(|segment| (segment.start, segment.end)).collect();
        assert_eq!(found, wanted, "{probabilities:?}");
    }

    #[test]
    fn short_silences_are_part_of_speech_and_short_speech_is_none() {
        check(&[(0.1, 4), (0.9, 10), (0.1, 10)], 24 * 512, &[(4 * 512 - 480, 14 * 512 + 480)]);
        check(&[(0.9, 10), (0.1, 3), (0.9, 10), (0.1, 10)], 33 * 512, &[(0, 23 * 512 + 480)]);
        // Between the thresholds nothing changes.
        check(&[(0.9, 10), (0.4, 20), (0.1, 10)], 40 * 512, &[(0, 30 * 512 + 480)]);
        check(&[(0.9, 7), (0.0, 10)], 17 * 512, &[]);
        check(&[(0.4, 50)], 50 * 512, &[]);
        check(&[(0.2, 4), (0.6, 10)], 14 * 512 - 100, &[(4 * 512 - 480, 14 * 512 - 100)]);
        check(&[(0.2, 4), (0.6, 10), (0.0, 2)], 16 * 512, &[(4 * 512 - 480, 16 * 512)]);
        check(&[], 0, &[]);
    }
}
