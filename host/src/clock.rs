//! The time by which decisions are made that take effect later: what expires, what a schedule begins. Tests move it. It never
//! times a request: deadlines and measured times use the system's own monotonic clock.

use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// A clock. Clones tell the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// How far a moved clock is ahead of the system's; the system's own where there is none.
    ahead: Option<watch::Receiver<Duration>>,
}

/// Moves a clock. Its time stands where it is left when this is dropped.
#[derive(Debug)]
pub struct Mover(watch::Sender<Duration>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Clock {
        Clock::default()
    }

    /// A clock that shows the system's time until it is moved, for tests.
    pub fn movable() -> (Clock, Mover) {
        let (mover, ahead) = watch::channel(Duration::ZERO);
        (Clock { ahead: Some(ahead) }, Mover(mover))
    }

    /// The time of day.
    pub fn now(&self) -> SystemTime {
        let ahead = self.ahead.as_ref().map(|ahead| *ahead.borrow());
        SystemTime::now() + ahead.unwrap_or_default()
    }

    /// Waits until this clock has gone on by `time`, by itself or because it was moved.
    pub async fn sleep(&self, time: Duration) {
        let end = self.now() + time;
        let Some(mut ahead) = self.ahead.clone() else { return tokio::time::sleep(time).await };
        loop {
            let left = end.duration_since(self.now()).unwrap_or_default();
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                moved = ahead.changed() => if moved.is_err() {
                    // Without its mover it goes on like any clock.
                    tokio::time::sleep(left).await;
                }
            }
        }
    }
}

impl Mover {
    /// Moves the clock ahead by `time`, and wakes what sleeps until then.
    pub fn advance(&self, time: Duration) {
        self.0.send_modify(|ahead| *ahead += time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;

    #[tokio::test]
    async fn a_moved_clock_wakes_what_sleeps() {
        let (clock, mover) = Clock::movable();
        let day = Duration::from_secs(24 * 60 * 60);
        let before = clock.now();
        let mut sleeping = Box::pin(clock.sleep(2 * day));
        assert!(poll!(&mut sleeping).is_pending());
        mover.advance(day);
        assert!(clock.now() >= before + day && poll!(&mut sleeping).is_pending());
        mover.advance(day);
        sleeping.await;
        drop(mover);
        clock.sleep(Duration::from_millis(1)).await;
        Clock::system().sleep(Duration::from_millis(1)).await;
    }
}
