//! Records who owns which bytes of a device: every allocation is charged before it is made; it never allocates tensors itself.

use crate::error::{Error, Result};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The owner of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The tensors of one invocation.
    Invocation {
        /// The invocation's tenant.
        tenant: Arc<str>,
    },
    /// A model's weights.
    Model {
        /// The model's name.
        name: Arc<str>,
    },
    /// What an engine needs while it runs.
    Workspace,
}

impl Owner {
    /// Which kind of owner it is.
    pub fn kind(&self) -> OwnerKind {
        match self {
            Owner::Invocation { .. } => OwnerKind::Invocation,
            Owner::Model { .. } => OwnerKind::Model,
            Owner::Workspace => OwnerKind::Workspace,
        }
    }
}

/// The kinds of owners, for totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray, strum::EnumCount)]
#[strum(serialize_all = "lowercase")]
pub enum OwnerKind {
    /// [`Owner::Invocation`].
    Invocation,
    /// [`Owner::Model`].
    Model,
    /// [`Owner::Workspace`].
    Workspace,
}

impl OwnerKind {
    /// Every kind, in the order of declaration.
    pub const ALL: [OwnerKind; <OwnerKind as strum::EnumCount>::COUNT] =
        *<OwnerKind as strum::VariantArray>::VARIANTS.first_chunk().unwrap();

    /// The word for this kind in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Frees at least this many bytes of a device and gives true, or gives false where it cannot. It may take as long as unloading a
/// model.
pub type Reclaim = Box<dyn Fn(u64) -> bool + Send + Sync>;

/// All bytes of one device.
pub struct Ledger {
    budget_bytes: u64,
    total: AtomicU64,
    peak: AtomicU64,
    by_kind: [AtomicU64; OwnerKind::ALL.len()],
    reclaim: OnceLock<Reclaim>,
    #[cfg(test)]
    refusing: std::sync::Mutex<Option<Refusing>>,
}

/// The charge that a test wants refused: the one after so many others, not counting those of one owner.
#[cfg(test)]
struct Refusing {
    left: u64,
    spared: Owner,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} of {} bytes", self.used_bytes(), self.budget_bytes)
    }
}

impl Ledger {
    /// A ledger that allows at most `budget_bytes` to be owned at once.
    pub fn new(budget_bytes: u64) -> Arc<Ledger> {
        Arc::new(Ledger {
            budget_bytes,
            total: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            by_kind: Default::default(),
            reclaim: OnceLock::new(),
            #[cfg(test)]
            refusing: std::sync::Mutex::default(),
        })
    }

    /// Refuses one charge, whatever room there is: the one after `count` others. Those of `spared` are neither counted nor
    /// refused.
    #[cfg(test)]
    pub(crate) fn refuse_after(&self, count: u64, spared: &Owner) {
        *self.refusing.lock().unwrap() = Some(Refusing { left: count, spared: spared.clone() });
    }

    /// Ends [`Ledger::refuse_after`]; whether a charge was refused.
    #[cfg(test)]
    pub(crate) fn has_refused(&self) -> bool {
        self.refusing.lock().unwrap().take().is_none()
    }

    #[cfg(test)]
    fn is_refused(&self, owner: &Owner) -> bool {
        let mut refusing = self.refusing.lock().unwrap();
        match &mut *refusing {
            Some(Refusing { left, spared }) if spared != owner => match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => return refusing.take().is_some(),
            },
            _ => {}
        }
        false
    }

    /// An account with its own limits on bytes and on tensors alive at once.
    pub fn account(self: &Arc<Ledger>, owner: Owner, limit_bytes: u64, limit_count: u64) -> Arc<Account> {
        Arc::new(Account {
            ledger: Arc::clone(self),
            owner,
            limit_bytes,
            limit_count,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            count: AtomicU64::new(0),
        })
    }

    /// The most bytes that can be owned at once.
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// The bytes owned now.
    pub fn used_bytes(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// The bytes owned now by owners of a kind.
    pub fn used_by(&self, kind: OwnerKind) -> u64 {
        self.by_kind[kind as usize].load(Ordering::Relaxed)
    }

    /// The most bytes that were owned at once.
    pub fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Sets what is called before a charge is refused for lack of room. Only the first call has an effect.
    pub fn reclaim_with(&self, reclaim: Reclaim) {
        // A second one would mean a second owner of the same device.
        let _ = self.reclaim.set(reclaim);
    }

    /// Evicts models to free this many bytes ahead of any charge, and gives whether any was evicted.
    #[cfg(feature = "server")]
    pub(super) fn make_room(&self, bytes: u64) -> bool {
        self.reclaim.get().is_some_and(|reclaim| reclaim(bytes))
    }

    /// Models are evicted for it only where `reclaims` is set.
    fn take(&self, owner: &Owner, bytes: u64, reclaims: bool) -> Result<()> {
        #[cfg(test)]
        if self.is_refused(owner) {
            return Err(Error::overloaded("a test has this charge refused"));
        }
        let kind = owner.kind();
        loop {
            let used = match add_within(&self.total, bytes, self.budget_bytes) {
                Ok(total) => {
                    self.peak.fetch_max(total, Ordering::Relaxed);
                    self.by_kind[kind as usize].fetch_add(bytes, Ordering::Relaxed);
                    return Ok(());
                }
                Err(used) => used,
            };
            let missing = bytes.saturating_sub(self.budget_bytes.saturating_sub(used));
            let possible = reclaims && bytes <= self.budget_bytes;
            if !(possible && self.reclaim.get().is_some_and(|reclaim| reclaim(missing))) {
                return Err(Error::overloaded(format!(
                    "the device has no room for {bytes} bytes: {used} of {} are in use (device_bytes); try again later",
                    self.budget_bytes
                )));
            }
        }
    }

    fn give_back(&self, kind: OwnerKind, bytes: u64) {
        self.by_kind[kind as usize].fetch_sub(bytes, Ordering::Relaxed);
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The bytes of one owner. It lives as long as anything charged to it.
#[derive(Debug)]
pub struct Account {
    ledger: Arc<Ledger>,
    owner: Owner,
    limit_bytes: u64,
    limit_count: u64,
    used: AtomicU64,
    peak: AtomicU64,
    count: AtomicU64,
}

impl Account {
    /// The owner.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The ledger it belongs to.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The bytes owned now.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes that were owned at once.
    pub fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// The tensors alive now, views included.
    pub fn tensor_count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Claims bytes until the result is dropped. It must be called before the bytes are allocated.
    ///
    /// Errors: `limit-exceeded` when the account would hold more than its limit; `overloaded` when the device would.
    pub fn charge(self: &Arc<Account>, bytes: u64) -> Result<Charge> {
        self.claim(bytes, true)
    }

    /// Claims bytes only if they are free now: no model is evicted for them.
    ///
    /// Errors: those of [`Account::charge`].
    pub fn charge_free(self: &Arc<Account>, bytes: u64) -> Result<Charge> {
        self.claim(bytes, false)
    }

    fn claim(self: &Arc<Account>, bytes: u64, reclaims: bool) -> Result<Charge> {
        let used = add_within(&self.used, bytes, self.limit_bytes).map_err(|used| {
            Error::limit_exceeded(format!(
                "{bytes} more bytes of tensors do not fit: {used} of {} are in use (tensor_bytes); drop tensors first",
                self.limit_bytes
            ))
        })?;
        if let Err(error) = self.ledger.take(&self.owner, bytes, reclaims) {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(error);
        }
        self.peak.fetch_max(used, Ordering::Relaxed);
        Ok(Charge { account: Arc::clone(self), bytes })
    }

    /// Claims one tensor's place until the result is dropped.
    pub(super) fn slot(self: &Arc<Account>) -> Result<Slot> {
        add_within(&self.count, 1, self.limit_count).map_err(|used| {
            Error::limit_exceeded(format!(
                "{used} tensors are alive, which is the most (tensor_count); drop some first"
            ))
        })?;
        Ok(Slot { account: Arc::clone(self) })
    }
}

/// Bytes claimed on an account; dropping it gives them back.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    bytes: u64,
}

impl Charge {
    /// The account that is charged.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.account.ledger.give_back(self.account.owner.kind(), self.bytes);
    }
}

/// One tensor's place among those of an account.
#[derive(Debug)]
pub(super) struct Slot {
    account: Arc<Account>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.account.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds if the sum stays within the limit and gives the sum; otherwise gives the current value as the error.
fn add_within(counter: &AtomicU64, amount: u64, limit: u64) -> Result<u64, u64> {
    let sum = |used: u64| used.checked_add(amount).filter(|sum| *sum <= limit);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).map(|used| used + amount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn account(ledger: &Arc<Ledger>, bytes: u64, count: u64) -> Arc<Account> {
        ledger.account(Owner::Invocation { tenant: "default".into() }, bytes, count)
    }

    #[test]
    fn a_refused_charge_leaves_nothing_behind() {
        let ledger = Ledger::new(100);
        let (a, b) = (account(&ledger, 80, 1), account(&ledger, 80, 1));
        let held = a.charge(60).unwrap();
        let refused = a.charge(21).unwrap_err();
        assert_eq!(refused.kind(), Kind::LimitExceeded);
        assert!(refused.message().contains("60 of 80") && refused.message().contains("tensor_bytes"), "{refused}");
        assert_eq!(b.charge(41).unwrap_err().kind(), Kind::Overloaded);
        assert_eq!((ledger.used_bytes(), a.used_bytes(), b.used_bytes(), b.peak_bytes()), (60, 60, 0, 0));
        assert_eq!(ledger.used_by(OwnerKind::Invocation), 60);
        assert_eq!(a.charge(u64::MAX).unwrap_err().kind(), Kind::LimitExceeded);
        drop(held);
        assert_eq!((ledger.used_bytes(), a.used_bytes(), a.peak_bytes()), (0, 0, 60));
    }

    #[test]
    fn what_can_be_freed_is_freed_before_a_charge_is_refused() {
        let ledger = Ledger::new(100);
        let account = account(&ledger, 1000, 1);
        let idle = std::sync::Mutex::new(vec![account.charge(30).unwrap(), account.charge(40).unwrap()]);
        let asked = Arc::new(AtomicU64::new(0));
        let told = asked.clone();
        ledger.reclaim_with(Box::new(move |bytes| {
            told.store(bytes, Ordering::Relaxed);
            idle.lock().unwrap().pop().is_some()
        }));
        let held = account.charge(50).unwrap();
        assert_eq!((asked.load(Ordering::Relaxed), ledger.used_bytes()), (20, 80));
        assert_eq!(account.charge(101).unwrap_err().kind(), Kind::Overloaded);
        assert_eq!(ledger.used_bytes(), 80, "what could never fit frees nothing");
        assert_eq!(account.charge(51).unwrap_err().kind(), Kind::Overloaded);
        assert_eq!((asked.load(Ordering::Relaxed), ledger.used_bytes(), ledger.peak_bytes()), (1, 50, 80));
        drop(held);
    }

    #[test]
    fn places_are_counted() {
        let account = account(&Ledger::new(100), 80, 1);
        let slot = account.slot().unwrap();
        assert!(account.slot().unwrap_err().message().contains("tensor_count"));
        drop(slot);
        assert!(account.slot().is_ok());
        assert_eq!(account.tensor_count(), 0);
    }

    #[test]
    fn many_threads_never_exceed_the_budget() {
        let ledger = Ledger::new(1_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let account = account(&ledger, 900, 10);
                let ledger = Arc::clone(&ledger);
                scope.spawn(move || {
                    for step in 0..2_000 {
                        let charge = account.charge(100 + step % 300);
                        assert!(ledger.used_bytes() <= 1_000);
                        drop(charge);
                    }
                });
            }
        });
        assert_eq!(ledger.used_bytes(), 0);
    }
}
