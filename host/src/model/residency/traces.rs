//! The policy against others on the same traces: milliseconds of loading, by simulation. Only in tests.

use super::policy::{Candidate, Uses, leaving};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// What a model takes.
#[derive(Clone, Copy)]
pub(in crate::model) struct Item {
    pub(in crate::model) bytes: u64,
    pub(in crate::model) load_ms: f64,
}

/// Requests, each for the model of a number.
pub(in crate::model) type Trace = Vec<usize>;

/// The traces by their names, of `requests` requests for `models` models.
pub(in crate::model) fn traces(models: usize, requests: usize, seed: u64) -> [(&'static str, Trace); 3] {
    let mut random = StdRng::seed_from_u64(seed);
    let mut ranks: Vec<usize> = (0..models).collect();
    ranks.shuffle(&mut random);
    let stationary = (0..requests).map(|_| ranks[zipf(models, &mut random)]).collect();
    let mut shifting = Trace::new();
    let mut scanning = Trace::new();
    while shifting.len() < requests {
        ranks.shuffle(&mut random);
        shifting.extend((0..requests.div_ceil(8)).map(|_| ranks[zipf(models, &mut random)]));
    }
    while scanning.len() < requests {
        scanning.extend((0..20).map(|_| ranks[zipf(models, &mut random)]));
        scanning.extend(0..models);
    }
    shifting.truncate(requests);
    scanning.truncate(requests);
    [("stationary Zipf", stationary), ("shifting Zipf", shifting), ("scanning", scanning)]
}

/// A rank from 0 on; the probability of rank r is in proportion to 1 / (r + 1).
fn zipf(ranks: usize, random: &mut StdRng) -> usize {
    let weight = |rank: usize| 1.0 / (rank + 1) as f64;
    let total: f64 = (0..ranks).map(weight).sum();
    let mut left = random.random_range(0.0..total);
    for rank in 0..ranks {
        left -= weight(rank);
        if left < 0.0 {
            return rank;
        }
    }
    ranks - 1
}

/// What decides who leaves. Each use of a model is told in turn, before the request that `chosen` makes room for.
trait Policy {
    fn used(&mut self, model: usize, at: usize);
    /// Models of `resident` in the order in which they leave, until enough have; or a set as a whole.
    fn order(&mut self, resident: &[usize], need: u64, at: usize) -> Vec<usize>;
    fn left(&mut self, _: usize) {}
}

/// The milliseconds of loading that a policy costs on a trace.
fn cost(policy: &mut dyn Policy, trace: &[usize], items: &[Item], budget: u64) -> f64 {
    let mut resident: Vec<usize> = Vec::new();
    let mut ms = 0.0;
    for (at, &model) in trace.iter().enumerate() {
        policy.used(model, at);
        if resident.contains(&model) {
            continue;
        }
        let used = |resident: &[usize]| resident.iter().map(|&one| items[one].bytes).sum::<u64>();
        let need = (used(&resident) + items[model].bytes).saturating_sub(budget);
        if need > 0 {
            let mut freed = 0;
            for one in policy.order(&resident, need, at) {
                if freed >= need {
                    break;
                }
                freed += items[one].bytes;
                resident.retain(|&other| other != one);
                policy.left(one);
            }
        }
        resident.push(model);
        assert!(used(&resident) <= budget, "over budget");
        ms += items[model].load_ms;
    }
    ms
}

struct Ours<'a>(&'a [Item], Vec<Uses>);

impl Policy for Ours<'_> {
    fn used(&mut self, model: usize, at: usize) {
        self.1[model].note(at as u64);
    }

    fn order(&mut self, resident: &[usize], need: u64, at: usize) -> Vec<usize> {
        let candidate = |&key: &usize| {
            let worth = self.1[key].at(at as u64) * self.0[key].load_ms;
            Candidate { key, bytes: self.0[key].bytes, priority: 0, worth }
        };
        leaving(resident.iter().map(candidate).collect(), need).unwrap()
    }

    fn left(&mut self, model: usize) {
        self.1[model].leave();
    }
}

/// Whatever can be told by one number for each model: the lowest leaves first.
struct Ranked<F: Fn(&mut State, usize, usize)> {
    state: State,
    note: F,
    rank: fn(&State, usize) -> f64,
    /// GDSF: what has left raises the floor from which the others start.
    ages: bool,
}

#[derive(Default)]
struct State {
    rank: Vec<f64>,
    count: Vec<f64>,
    floor: f64,
}

impl<F: Fn(&mut State, usize, usize)> Policy for Ranked<F> {
    fn used(&mut self, model: usize, at: usize) {
        (self.note)(&mut self.state, model, at);
    }

    fn order(&mut self, resident: &[usize], _: u64, _: usize) -> Vec<usize> {
        let mut order = resident.to_vec();
        order.sort_by(|&a, &b| (self.rank)(&self.state, a).total_cmp(&(self.rank)(&self.state, b)));
        order
    }

    fn left(&mut self, model: usize) {
        if self.ages {
            self.state.floor = self.state.floor.max(self.state.rank[model]);
            self.state.count[model] = 0.0;
        }
    }
}

/// What the policies cost on a trace, by their names; ours first. Belady's is told when each model is wanted next, and knows
/// no costs: the farthest leaves.
pub(in crate::model) fn costs(trace: &[usize], items: &[Item], budget: u64) -> [(&'static str, f64); 5] {
    let state = || State { rank: vec![0.0; items.len()], count: vec![0.0; items.len()], floor: 0.0 };
    let rank: fn(&State, usize) -> f64 = |state, model| state.rank[model];
    let lru = |state: &mut State, model: usize, at: usize| state.rank[model] = at as f64;
    let lfu = |state: &mut State, model: usize, at: usize| {
        state.count[model] += 1.0;
        // The older one of two that were used as often.
        state.rank[model] = state.count[model] + at as f64 * 1e-9;
    };
    let gdsf = |state: &mut State, model: usize, _: usize| {
        state.count[model] += 1.0;
        state.rank[model] = state.floor + state.count[model] * items[model].load_ms / items[model].bytes as f64;
    };
    let belady = |state: &mut State, model: usize, at: usize| {
        let next = trace[at + 1..].iter().position(|&other| other == model);
        state.rank[model] = -next.map_or(f64::INFINITY, |steps| (at + 1 + steps) as f64);
    };
    let ranked = |note: &dyn Fn(&mut State, usize, usize), ages| {
        let mut policy = Ranked { state: state(), note, rank, ages };
        cost(&mut policy, trace, items, budget)
    };
    [
        ("hearth", cost(&mut Ours(items, vec![Uses::default(); items.len()]), trace, items, budget)),
        ("LRU", ranked(&lru, false)),
        ("LFU", ranked(&lfu, false)),
        ("GDSF", ranked(&gdsf, true)),
        ("Belady", ranked(&belady, false)),
    ]
}

/// Milliseconds of loading on each kind of trace, summed over seeds: no more than LRU, LFU and GDSF, for models whose loading
/// takes the longer the larger they are, as from a disk, and for those where one has nothing to do with the other, as with
/// prepared forms.
#[test]
fn reloading_costs_no_more_than_with_lru_lfu_and_gdsf() {
    for by_size in [true, false] {
        compare(if by_size { "by size" } else { "whatever the size" }, |random| {
            let mebibytes = 2_f64.powf(random.random_range(0.0..7.0));
            let load_ms = match by_size {
                true => 5.0 + mebibytes * random.random_range(0.5..3.0),
                false => 2_f64.powf(random.random_range(0.0..5.0)),
            };
            Item { bytes: (mebibytes * 1048576.0) as u64, load_ms }
        });
    }
}

fn compare(loading: &str, item: impl Fn(&mut StdRng) -> Item) {
    let mut sums: Vec<(&str, [(&str, f64); 5])> = Vec::new();
    let (mut compared, mut won) = (0, 0);
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(1000 + seed);
        let items: Vec<Item> = (0..12).map(|_| item(&mut random)).collect();
        let total: u64 = items.iter().map(|item| item.bytes).sum();
        let budget = (total / 3).max(items.iter().map(|item| item.bytes).max().unwrap());
        for (name, trace) in traces(items.len(), 1000, seed) {
            let costs = costs(&trace, &items, budget);
            compared += 3;
            won += costs[1..4].iter().filter(|(_, ms)| costs[0].1 <= *ms).count();
            match sums.iter_mut().find(|(other, _)| *other == name) {
                Some((_, sum)) => sum.iter_mut().zip(costs).for_each(|(sum, (_, ms))| sum.1 += ms),
                None => sums.push((name, costs)),
            }
        }
    }
    for (name, sum) in &sums {
        let shares: Vec<String> = sum.iter().map(|(policy, ms)| format!("{policy} {:.3}", ms / sum[0].1)).collect();
        println!("{name}, {loading}: milliseconds of loading, in those of hearth: {}", shares.join(", "));
        assert!(sum[1..4].iter().all(|(_, ms)| sum[0].1 <= *ms), "{name}: {sum:?}");
    }
    println!("{loading}: no more than another policy in {won} of {compared} comparisons");
    assert!(won * 20 >= compared * 17, "{loading}: {won} of {compared}");
}
