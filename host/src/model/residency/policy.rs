//! Which models leave memory when another needs room; it never unloads anything itself.
//!
//! A model in memory is worth the milliseconds that loading it again would take, times how often it was used of late. The
//! ones that leave are the cheapest set that frees enough bytes. GreedyDual-Size (Cao and Irani, *Cost-aware WWW proxy
//! caching algorithms*, 1997) and GDSF (Cherkasova, 1998) rate by the same three, frequency × cost ÷ size, and then take one
//! after the other; models are few and large, so that taking them one by one frees far too much or throws out a dear one
//! where two cheap ones would do. The set is therefore chosen as a whole. Recent use is a count that halves with each
//! [`HALF_LIFE`] opens of any model, after LRFU (Lee et al., 2001): old favourites fade, and a scan over all models, which
//! touches each once, does not look like use. It also halves when the model makes room, as GDSF forgets it altogether: of two
//! that want the same room, the one that comes back does not drive out the other at once.

use std::cmp::Ordering;

/// Opens of any model within which a count of uses halves. Between 50 and 400 little changes on Zipf and scanning traces.
const HALF_LIFE: f64 = 100.0;
/// Sets looked at before the best one so far is taken. Reached only with many candidates of much the same worth.
const MOST_SETS: u32 = 20_000;

/// How often a model was used of late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uses {
    count: f64,
    at: u64,
}

impl Uses {
    /// Counts a use. `clock` counts the opens of all models.
    pub(super) fn note(&mut self, clock: u64) {
        *self = Uses { count: self.at(clock) + 1.0, at: clock };
    }

    /// Notes that the model made room for others.
    pub(super) fn leave(&mut self) {
        self.count /= 2.0;
    }

    /// The count as it is worth now.
    pub(super) fn at(&self, clock: u64) -> f64 {
        self.count * (-(clock.saturating_sub(self.at) as f64) / HALF_LIFE).exp2()
    }
}

/// A model that may leave.
#[derive(Clone, Debug)]
pub(super) struct Candidate<K> {
    pub(super) key: K,
    /// What its leaving frees.
    pub(super) bytes: u64,
    /// Candidates of a lower priority leave first, whatever they are worth.
    pub(super) priority: u8,
    /// Recent uses × milliseconds to load it again.
    pub(super) worth: f64,
}

/// The cheapest set of candidates that frees `need` bytes; `None` where all of them do not.
pub(super) fn leaving<K>(mut candidates: Vec<Candidate<K>>, need: u64) -> Option<Vec<K>> {
    candidates.retain(|candidate| candidate.bytes > 0);
    let all = candidates.iter().map(|candidate| candidate.bytes).fold(0_u64, u64::saturating_add);
    if all < need {
        return None;
    }
    let mut left = need;
    let mut chosen = Vec::new();
    while left > 0 {
        let lowest = candidates.iter().map(|candidate| candidate.priority).min()?;
        let (mut group, rest): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|candidate| candidate.priority == lowest);
        candidates = rest;
        let bytes = group.iter().map(|candidate| candidate.bytes).fold(0_u64, u64::saturating_add);
        if bytes > left {
            group = cheapest(group, left);
            left = 0;
        } else {
            left -= bytes;
        }
        chosen.extend(group.into_iter().map(|candidate| candidate.key));
    }
    Some(chosen)
}

/// The cheapest of the sets that free `need` bytes, which all together do.
fn cheapest<K>(mut candidates: Vec<Candidate<K>>, need: u64) -> Vec<Candidate<K>> {
    let dear = |candidate: &Candidate<K>| candidate.worth / candidate.bytes as f64;
    candidates.sort_by(|a, b| dear(a).partial_cmp(&dear(b)).unwrap_or(Ordering::Equal));
    let mut search = Search {
        bytes: candidates.iter().map(|candidate| candidate.bytes).collect(),
        worth: candidates.iter().map(|candidate| candidate.worth).collect(),
        taken: vec![false; candidates.len()],
        best: Vec::new(),
        best_worth: f64::INFINITY,
        sets: 0,
    };
    search.from(0, need, 0.0);
    let mut best = search.best.into_iter();
    candidates.retain(|_| best.next().unwrap_or(false));
    candidates
}

/// Depth first, cheapest per byte first: the first set found is what a greedy choice would take.
struct Search {
    bytes: Vec<u64>,
    worth: Vec<f64>,
    taken: Vec<bool>,
    best: Vec<bool>,
    best_worth: f64,
    sets: u32,
}

impl Search {
    fn from(&mut self, index: usize, need: u64, worth: f64) {
        if need == 0 {
            if worth < self.best_worth {
                (self.best_worth, self.best) = (worth, self.taken.clone());
            }
            return;
        }
        if index == self.bytes.len() || self.sets > MOST_SETS {
            return;
        }
        // Those to come cost at least as much per byte as the next one.
        let least = worth + self.worth[index] / self.bytes[index] as f64 * need as f64;
        if least >= self.best_worth {
            return;
        }
        self.sets += 1;
        self.taken[index] = true;
        self.from(index + 1, need.saturating_sub(self.bytes[index]), worth + self.worth[index]);
        self.taken[index] = false;
        self.from(index + 1, need, worth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn candidate(key: usize, bytes: u64, worth: f64) -> Candidate<usize> {
        Candidate { key, bytes, priority: 0, worth }
    }

    fn chosen(candidates: &[Candidate<usize>], need: u64) -> Option<Vec<usize>> {
        let mut keys = leaving(candidates.to_vec(), need)?;
        keys.sort_unstable();
        Some(keys)
    }

    #[test]
    fn two_cheap_ones_leave_before_a_dear_one_and_lower_priorities_before_higher() {
        let mut all = [candidate(0, 10, 10.0), candidate(1, 5, 3.0), candidate(2, 5, 3.0), candidate(3, 0, 0.0)];
        assert_eq!(chosen(&all, 10), Some(vec![1, 2]));
        assert_eq!(chosen(&all, 4), Some(vec![1]));
        assert_eq!(chosen(&all, 11), Some(vec![0, 1]));
        assert_eq!(chosen(&all, 20), Some(vec![0, 1, 2]));
        assert_eq!(chosen(&all, 21), None);
        assert_eq!(chosen(&all, 0), Some(vec![]));
        all[1].priority = 1;
        assert_eq!(chosen(&all, 5), Some(vec![2]));
        assert_eq!(chosen(&all, 10), Some(vec![0]));
        assert_eq!(chosen(&all, 15), Some(vec![0, 2]));
        assert_eq!(chosen(&all, 16), Some(vec![0, 1, 2]));
    }

    #[test]
    fn the_set_is_the_cheapest_of_all() {
        let mut random = StdRng::seed_from_u64(6);
        for _ in 0..200 {
            let count = random.random_range(1..10);
            let all: Vec<_> = (0..count)
                .map(|key| candidate(key, random.random_range(1..50), random.random_range(0.0..9.0)))
                .collect();
            let total: u64 = all.iter().map(|one| one.bytes).sum();
            let need = random.random_range(1..=total);
            let sum = |set: u32, of: &dyn Fn(&Candidate<usize>) -> f64| {
                all.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1).map(|(_, one)| of(one)).sum::<f64>()
            };
            let enough = (0_u32..1 << count).filter(|set| sum(*set, &|one| one.bytes as f64) >= need as f64);
            let least = enough.map(|set| sum(set, &|one| one.worth)).fold(f64::INFINITY, f64::min);
            let set = chosen(&all, need).unwrap().into_iter().fold(0, |set, key| set | 1 << key);
            assert!(sum(set, &|one| one.bytes as f64) >= need as f64);
            assert!(sum(set, &|one| one.worth) <= least + 1e-9, "{all:?} {need}");
        }
    }

    #[test]
    fn a_thousand_candidates_are_no_burden() {
        let mut random = StdRng::seed_from_u64(7);
        let all: Vec<_> = (0..1000)
            .map(|key| candidate(key, 1000 + random.random_range(0..10), random.random_range(1.0..1.1)))
            .collect();
        let freed: u64 = chosen(&all, 500_000).unwrap().into_iter().map(|key| all[key].bytes).sum();
        assert!((500_000..502_000).contains(&freed), "{freed}");
    }

    #[test]
    fn uses_fade() {
        let mut uses = Uses::default();
        uses.note(0);
        uses.note(HALF_LIFE as u64);
        assert_eq!(uses.at(HALF_LIFE as u64), 1.5);
        assert_eq!(uses.at(2 * HALF_LIFE as u64), 0.75);
        uses.leave();
        assert_eq!(uses.at(2 * HALF_LIFE as u64), 0.375);
    }
}
