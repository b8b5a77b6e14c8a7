//! A budget: a sum that stays within its maximum, and shares of it. It takes no lock and has no queue.

use super::sync::{Arc, AtomicU64};
use std::sync::atomic::Ordering;

/// Bytes, or a count, that several callers share. A clone is the same budget.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Sum>);

#[derive(Debug)]
struct Sum {
    used: AtomicU64,
    most: u64,
}

/// A part of a budget; given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    amount: u64,
}

/// A refusal: a share cannot grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// What all shares together have.
    pub used: u64,
    /// What they may have together.
    pub most: u64,
}

impl Budget {
    /// A budget of `most`, all of it free.
    pub fn new(most: u64) -> Budget {
        Budget(Arc::new(Sum { used: AtomicU64::new(0), most }))
    }

    /// A share, empty yet.
    pub fn share(&self) -> Share {
        Share { budget: self.clone(), amount: 0 }
    }

    /// A share of `amount`.
    ///
    /// Errors: the budget has no room for it.
    pub fn take(&self, amount: u64) -> Result<Share, Over> {
        let mut share = self.share();
        share.try_grow(amount)?;
        Ok(share)
    }

    /// A share of `amount` for what exists already, even where the budget has no room for it.
    pub fn take_anyway(&self, amount: u64) -> Share {
        let sum = |used: u64| Some(used.saturating_add(amount));
        let (Ok(used) | Err(used)) = self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
        Share { budget: self.clone(), amount: amount.min(u64::MAX - used) }
    }

    /// What all shares together have.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }
}

impl Share {
    /// How much it is.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Takes `more` of the budget.
    ///
    /// Errors: the budget has no room for it; the share is as it was.
    pub fn try_grow(&mut self, more: u64) -> Result<(), Over> {
        let Sum { used, most } = &*self.budget.0;
        let sum = |used: u64| used.checked_add(more).filter(|sum| sum <= most);
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).map_err(|used| Over { used, most: *most })?;
        self.amount += more;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}
