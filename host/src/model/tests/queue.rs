//! Runs that wait for a lane, as they are seen from outside.

use super::*;
use std::pin::Pin;
use std::task::Poll;

type Running<'a> = Pin<Box<dyn Future<Output = Result<Run>> + Send + 'a>>;

/// Begins a run: it has its lane or its place in the queue afterwards.
async fn begin<'a>(run: impl Future<Output = Result<Run>> + Send + 'a) -> Running<'a> {
    let mut run: Running<'a> = Box::pin(run);
    let pending = std::future::poll_fn(|context| Poll::Ready(run.as_mut().poll(context).is_pending())).await;
    assert!(pending);
    run
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_wait_are_listed_and_the_one_that_is_due_first_has_the_next_lane() {
    let Some(house) = House::new(1) else { return };
    let relu = Graph::default().input("x", F32, "n 2").node("Relu", &["x"], &["y"]).output("y", F32, "n 2");
    let (slow, quick) = (house.lease("long", long()).await, house.lease("relu", relu).await);
    let account = house.account();
    let square = house.floats(&[384, 384], &[1.0; 384 * 384]);
    let rows = house.floats(&[5, 2], &[-1.0; 10]);
    let waiting = |name: &str| {
        let count = house.models.states().into_iter().find(|state| state.name == name).unwrap().waiting;
        let runs = house.models.waiting_runs(name);
        assert_eq!(count, runs.len() as u64);
        runs
    };

    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let stops: Vec<Stop> = (0..cores + 1).map(|_| Stop::default()).collect();
    let mut runs = Vec::new();
    for stop in &stops {
        runs.push(begin(slow.infer(&account, vec![("x".to_owned(), square.clone())], stop)).await);
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let due = Stop::new(Some(deadline));
    let infer = || quick.infer(&account, vec![("x".to_owned(), rows.clone())], &due);
    let urgent = begin(infer()).await;
    let listed: Vec<_> = waiting("relu").into_iter().map(|run| (run.deadline, run.tenant, run.rows)).collect();
    assert_eq!(listed, [(Some(deadline), "default".into(), 5)]);
    let listed: Vec<_> = waiting("long").into_iter().map(|run| (run.deadline, run.rows)).collect();
    assert_eq!(listed, [(None, 384)]);

    // The run without a deadline came first, and waits until the other one is over.
    stops[0].cancel();
    let run = urgent.await.unwrap();
    assert!(run.outputs[0].1.host_bytes().unwrap().iter().all(|byte| *byte == 0));
    assert!(waiting("relu").is_empty());

    // A run that nobody waits for any more is on no list.
    let begun = Instant::now();
    let last = begin(slow.infer(&account, vec![("x".to_owned(), square.clone())], &due)).await;
    assert!(!waiting("long").is_empty());
    drop((runs, last));
    assert!(waiting("long").is_empty());
    infer().await.unwrap();
    assert!(begun.elapsed() < 2 * SOON, "{:?}", begun.elapsed());
}
