//! Who gets a lane, told by hand, against a plain list, in every order of threads by loom, and on tokio.

mod sync {
    pub(super) use loom::sync::{Arc, Mutex};
}
#[path = "lanes.rs"]
#[allow(dead_code, clippy::duplicate_mod, reason = "the same source on loom's types")]
mod on_loom;

use super::WaitingRun;
use super::lanes::{Full, Lane, Lanes, Place, Queue};
use crate::interleaving::{block_on, every_order};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A run that is due so many milliseconds after `since`, if ever.
fn run(since: Instant, due_ms: Option<u64>) -> WaitingRun {
    let deadline = due_ms.map(|ms| since + Duration::from_millis(ms));
    WaitingRun { deadline, tenant: "t".into(), rows: 1, since }
}

fn poll(place: &mut Place<'_>) -> Option<Lane> {
    match Pin::new(place).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(lane) => Some(lane),
        Poll::Pending => None,
    }
}

#[test]
fn a_lane_goes_to_the_queue_whose_first_run_is_due_first() {
    let (lanes, now) = (Lanes::new(1), Instant::now());
    let models: Vec<Queue> = (0..4).map(|_| lanes.queue(10)).collect();
    let held = models[0].try_lane().unwrap();
    assert!(models[1].try_lane().is_none());
    // The model, when the run is due, and when it has its turn. Within a queue nobody overtakes.
    let runs = [
        (0, None, 7),
        (1, Some(500), 3),
        (1, Some(1), 4),
        (2, Some(400), 1),
        (0, Some(1), 8),
        (2, Some(400), 2),
        (3, Some(600), 5),
        (3, None, 9),
        (1, Some(600), 6),
    ];
    let mut places: Vec<(usize, Place<'_>)> =
        runs.iter().map(|&(model, due, turn)| (turn, models[model].join(run(now, due)).unwrap())).collect();
    let waiting: Vec<_> = models[1].waiting().iter().map(|run| run.deadline.unwrap() - now).collect();
    assert_eq!(waiting, [500, 1, 600].map(Duration::from_millis));
    drop(held);
    for turn in 1..=runs.len() {
        let mut ready: Vec<_> = places.iter_mut().filter_map(|(turn, place)| Some((*turn, poll(place)?))).collect();
        assert_eq!(ready.iter().map(|(turn, _)| *turn).collect::<Vec<_>>(), [turn]);
        ready.clear();
    }
    assert_eq!(lanes.free_and_given(), (1, 0));
    assert!(models.iter().all(|model| model.waiting_count() == 0));
}

#[test]
fn one_model_holds_several_lanes() {
    let (lanes, now) = (Lanes::new(3), Instant::now());
    let queue = lanes.queue(10);
    let held: Vec<_> = (0..3).map(|_| queue.try_lane().unwrap()).collect();
    let mut places: Vec<_> = (0..3).map(|_| queue.join(run(now, None)).unwrap()).collect();
    drop(held);
    let taken: Vec<_> = places.iter_mut().filter_map(poll).collect();
    assert_eq!((taken.len(), lanes.free_and_given()), (3, (0, 0)));
}

#[test]
fn more_runs_than_may_wait_are_refused_and_places_are_freed() {
    let (lanes, now) = (Lanes::new(1), Instant::now());
    let (queue, other) = (lanes.queue(2), lanes.queue(2));
    let held = queue.try_lane();
    let first = queue.join(run(now, None)).unwrap();
    let mut second = queue.join(run(now, None)).unwrap();
    assert_eq!(queue.join(run(now, None)).err(), Some(Full(2)));
    assert!(other.join(run(now, None)).is_ok());
    drop(first);
    assert_eq!(queue.waiting_count(), 1);
    let third = queue.join(run(now, None)).unwrap();
    assert!(poll(&mut second).is_none());
    drop(held);
    // The second has the lane and does not come for it: the third has it then.
    drop(second);
    assert_eq!(lanes.free_and_given(), (0, 1));
    drop(third);
    assert_eq!((lanes.free_and_given(), queue.waiting_count()), ((1, 0), 0));
    assert!(poll(&mut queue.join(run(now, None)).unwrap()).is_some(), "a free lane is had at once");
}

/// What [`Lanes`] should do, by a plain list: the queue, when it is due, and whether it was given a lane.
struct Plain {
    free: usize,
    runs: Vec<(u64, usize, Option<u64>, bool)>,
}

impl Plain {
    fn give_back(&mut self) {
        let queues: Vec<usize> = self.runs.iter().map(|run| run.1).collect();
        let heads = queues.iter().filter_map(|queue| self.runs.iter().find(|run| run.1 == *queue && !run.3));
        let next = heads.min_by_key(|run| (run.2.unwrap_or(u64::MAX), run.0)).map(|run| run.0);
        match next {
            Some(next) => self.runs.iter_mut().find(|run| run.0 == next).unwrap().3 = true,
            None => self.free += 1,
        }
    }
}

#[test]
fn lanes_do_as_a_plain_list_does() {
    for seed in 0..500 {
        let mut random = StdRng::seed_from_u64(seed);
        let (count, now) = (random.random_range(1..4), Instant::now());
        let lanes = Lanes::new(count);
        let queues: Vec<Queue> = (0..3).map(|_| lanes.queue(4)).collect();
        let mut plain = Plain { free: count, runs: Vec::new() };
        let mut held: Vec<Lane> = Vec::new();
        let mut places: Vec<(u64, Place<'_>)> = Vec::new();
        for step in 0..200 {
            let at = (!places.is_empty()).then(|| random.random_range(0..places.len()));
            match (random.random_range(0..6), at) {
                (0..2, _) => {
                    let queue = random.random_range(0..queues.len());
                    let due = random.random_bool(0.8).then(|| random.random_range(0..20));
                    let waiting = plain.runs.iter().filter(|run| run.1 == queue && !run.3).count();
                    match queues[queue].join(run(now, due)) {
                        Ok(place) => {
                            plain.runs.push((step, queue, due, plain.free > 0));
                            plain.free = plain.free.saturating_sub(1);
                            places.push((step, place));
                        }
                        Err(Full(found)) => assert_eq!((found, waiting, plain.free), (4, 4, 0)),
                    }
                }
                (2, _) => match queues[0].try_lane() {
                    Some(lane) => {
                        plain.free -= 1;
                        held.push(lane);
                    }
                    None => assert_eq!(plain.free, 0),
                },
                (3, _) => {
                    if held.pop().is_some() {
                        plain.give_back();
                    }
                }
                (4, Some(at)) => {
                    let (number, _place) = places.swap_remove(at);
                    let (.., given) = plain.runs.remove(plain.runs.iter().position(|run| run.0 == number).unwrap());
                    if given {
                        plain.give_back();
                    }
                }
                (_, Some(at)) => {
                    let (number, place) = &mut places[at];
                    let index = plain.runs.iter().position(|run| run.0 == *number).unwrap();
                    let lane = poll(place);
                    assert_eq!(lane.is_some(), plain.runs[index].3, "seed {seed}, step {step}");
                    if let Some(lane) = lane {
                        held.push(lane);
                        plain.runs.remove(index);
                        places.swap_remove(at);
                    }
                }
                (_, None) => {}
            }
            let given = plain.runs.iter().filter(|run| run.3).count();
            assert_eq!(lanes.free_and_given(), (plain.free, given), "seed {seed}, step {step}");
            assert_eq!(plain.free + given + held.len(), count);
            for (number, queue) in queues.iter().enumerate() {
                let of = plain.runs.iter().filter(|run| run.1 == number && !run.3);
                assert!(queue.waiting().into_iter().eq(of.map(|&(_, _, due, _)| run(now, due))));
            }
        }
        drop((places, held));
        assert_eq!(lanes.free_and_given(), (count, 0));
    }
}

#[test]
fn a_lane_is_held_by_one_run_and_every_run_gets_one_in_every_order() {
    every_order(2, || {
        let lanes = on_loom::Lanes::new(1);
        let holders = Arc::new(AtomicUsize::new(0));
        let hold = |lanes: &on_loom::Lanes, holders: &AtomicUsize| {
            let queue = lanes.queue(10);
            let lane = match queue.try_lane() {
                Some(lane) => lane,
                None => block_on(queue.join(run(Instant::now(), None)).unwrap()),
            };
            assert_eq!(holders.fetch_add(1, Ordering::Relaxed), 0);
            loom::thread::yield_now();
            holders.fetch_sub(1, Ordering::Relaxed);
            drop(lane);
        };
        let threads = [(); 2].map(|()| {
            let (lanes, holders) = (lanes.clone(), holders.clone());
            loom::thread::spawn(move || hold(&lanes, &holders))
        });
        hold(&lanes, &holders);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(lanes.free_and_given(), (1, 0));
    });
}

#[test]
fn a_lane_given_to_a_run_that_leaves_is_not_lost_in_any_order() {
    every_order(3, || {
        let lanes = on_loom::Lanes::new(1);
        let held = lanes.queue(10).try_lane().unwrap();
        let leaves = {
            let lanes = lanes.clone();
            loom::thread::spawn(move || {
                let queue = lanes.queue(10);
                let mut place = queue.join(run(Instant::now(), Some(0))).unwrap();
                block_on(poll_fn(|context| Poll::Ready(Pin::new(&mut place).poll(context).is_ready())));
            })
        };
        let stays = {
            let lanes = lanes.clone();
            loom::thread::spawn(move || {
                let queue = lanes.queue(10);
                drop(block_on(queue.join(run(Instant::now(), None)).unwrap()));
            })
        };
        drop(held);
        leaves.join().unwrap();
        stays.join().unwrap();
        assert_eq!(lanes.free_and_given(), (1, 0));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_on_tokio_are_all_back_after_runs_that_were_aborted_at_any_time() {
    let lanes = Lanes::new(2);
    let queues: Arc<Vec<Queue>> = Arc::new((0..5).map(|_| lanes.queue(u64::MAX)).collect());
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut random = StdRng::seed_from_u64(11);
    let tasks: Vec<_> = (0..2_000)
        .map(|number| {
            let (queues, running, most) = (queues.clone(), running.clone(), most.clone());
            let task = tokio::spawn(async move {
                let queue = &queues[number % 5];
                let lane = match queue.try_lane() {
                    Some(lane) => lane,
                    None => queue.join(run(Instant::now(), Some(number as u64 % 97))).unwrap().await,
                };
                most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                std::thread::yield_now();
                running.fetch_sub(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                drop(lane);
            });
            (task, random.random_bool(0.4))
        })
        .collect();
    for (task, _) in tasks.iter().filter(|(_, aborted)| *aborted) {
        task.abort();
        tokio::task::yield_now().await;
    }
    for (task, aborted) in tasks {
        let over = tokio::time::timeout(Duration::from_secs(20), task).await.expect("a run waits for ever");
        assert!(aborted || over.is_ok());
    }
    assert!(most.load(Ordering::Relaxed) <= 2);
    assert_eq!(lanes.free_and_given(), (2, 0));
    assert!(queues.iter().all(|queue| queue.waiting().is_empty()));
}
