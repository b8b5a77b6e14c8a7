//! A place for a value that `#[init]` makes. It never makes anything by itself.

use crate::{Error, Result};

/// A static value that `#[init]` makes once for each deployment and every instance starts with.
///
/// It needs no `unsafe` and no lock. The value lives as long as the component, so it may borrow leaked data: with `asset.leak()`
/// a parsed file can point into the file's bytes.
///
/// ```
/// use hearth_guest::{Prepared, Result, init};
///
/// static PRIMES: Prepared<Vec<u32>> = Prepared::new();
///
/// #[init]
/// fn prepare() -> Result<()> {
///     PRIMES.set((2..1000).filter(|n| (2..*n).all(|d| n % d != 0)).collect())
/// }
/// # prepare().unwrap();
/// # assert_eq!(PRIMES.get().unwrap().len(), 168);
/// ```
///
/// In tests on the development machine each thread, and so each test, has its own value.
pub struct Prepared<T: 'static>(place::Place<T>);

impl<T: Send + Sync + 'static> Prepared<T> {
    /// An empty place.
    pub const fn new() -> Prepared<T> {
        Prepared(place::Place::new())
    }

    /// Sets the value; for the function marked `#[init]`.
    ///
    /// Errors: `conflict` if there is one already.
    pub fn set(&self, value: T) -> Result<()> {
        match self.0.set(value) {
            true => Ok(()),
            false => Err(Error::conflict("this Prepared value was set already; set it once, in #[init]")),
        }
    }

    /// The value.
    ///
    /// Errors: `internal` where `#[init]` did not set it.
    pub fn get(&self) -> Result<&T> {
        self.0.get().ok_or_else(|| {
            Error::internal(
                "a Prepared value is empty: set it in the function marked #[init], which runs before the handler",
            )
        })
    }
}

impl<T: Send + Sync + 'static> Default for Prepared<T> {
    fn default() -> Prepared<T> {
        Prepared::new()
    }
}

#[cfg(target_arch = "wasm32")]
mod place {
    //! A component has one thread and one value.

    use std::sync::OnceLock;

    pub(super) struct Place<T>(OnceLock<T>);

    impl<T> Place<T> {
        pub(super) const fn new() -> Place<T> {
            Place(OnceLock::new())
        }

        pub(super) fn set(&self, value: T) -> bool {
            self.0.set(value).is_ok()
        }

        pub(super) fn get(&self) -> Option<&T> {
            self.0.get()
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod place {
    //! Tests run in parallel in one process, each on its own thread, so a value belongs to a thread.

    use std::any::Any;
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    thread_local! {
        /// By the numbers of the places. The values are leaked, because they are static in a component.
        static VALUES: RefCell<HashMap<usize, &'static (dyn Any + Send + Sync)>> = RefCell::default();
    }

    static NEXT: AtomicUsize = AtomicUsize::new(0);

    pub(super) struct Place<T> {
        number: OnceLock<usize>,
        _value: std::marker::PhantomData<T>,
    }

    impl<T: Send + Sync + 'static> Place<T> {
        pub(super) const fn new() -> Place<T> {
            Place { number: OnceLock::new(), _value: std::marker::PhantomData }
        }

        fn number(&self) -> usize {
            *self.number.get_or_init(|| NEXT.fetch_add(1, Ordering::Relaxed))
        }

        pub(super) fn set(&self, value: T) -> bool {
            let number = self.number();
            let vacant = VALUES.with_borrow(|values| !values.contains_key(&number));
            if vacant {
                let value: &'static (dyn Any + Send + Sync) = Box::leak(Box::new(value));
                VALUES.with_borrow_mut(|values| values.insert(number, value));
            }
            vacant
        }

        pub(super) fn get(&self) -> Option<&T> {
            VALUES.with_borrow(|values| values.get(&self.number()).copied())?.downcast_ref()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_set_once_and_missing_before() {
        static WORD: Prepared<String> = Prepared::new();
        static OTHER: Prepared<String> = Prepared::new();
        assert!(WORD.get().unwrap_err().message().contains("#[init]"));
        WORD.set("a".to_owned()).unwrap();
        assert_eq!(WORD.set("b".to_owned()).unwrap_err().kind(), "conflict");
        assert_eq!(WORD.get().unwrap(), "a");
        assert!(OTHER.get().is_err());
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(WORD.get().is_err()));
        });
    }
}
