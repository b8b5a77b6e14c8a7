//! Caches resolved selectors, so that an invocation does not read the database; it never keeps an entry beyond a change of its
//! name.

use super::names::Selector;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

/// Entries of one cache. A full cache is emptied: reading an entry again takes some 20 µs, and keeping it about 1 KiB.
const ENTRIES: usize = 10_000;

/// Resolved versions by tenant and selector. One process holds the catalog, so no other process can change what is cached.
#[derive(Debug)]
pub(super) struct Cache<V> {
    entries: RwLock<Entries<V>>,
}

#[derive(Debug)]
struct Entries<V> {
    /// Counts changes of the catalog.
    generation: u64,
    count: usize,
    by_tenant: HashMap<String, HashMap<Selector, Arc<V>>>,
}

impl<V> Cache<V> {
    pub(super) fn new() -> Cache<V> {
        Cache { entries: RwLock::new(Entries { generation: 0, count: 0, by_tenant: HashMap::new() }) }
    }

    /// The cached value, or else the generation to pass to [`Cache::insert`], which must be read before the database is.
    pub(super) fn get(&self, tenant: &str, selector: &Selector) -> Result<Arc<V>, u64> {
        let entries = self.entries.read();
        let found = entries.by_tenant.get(tenant).and_then(|selectors| selectors.get(selector));
        found.map(Arc::clone).ok_or(entries.generation)
    }

    /// Keeps a value, unless the catalog changed since `generation`.
    pub(super) fn insert(&self, generation: u64, tenant: &str, selector: &Selector, value: &Arc<V>) {
        let mut entries = self.entries.write();
        if entries.generation != generation {
            return;
        }
        if entries.count >= ENTRIES {
            entries.count = 0;
            entries.by_tenant.clear();
        }
        let selectors = entries.by_tenant.entry(tenant.to_owned()).or_default();
        if selectors.insert(selector.clone(), Arc::clone(value)).is_none() {
            entries.count += 1;
        }
    }

    /// Forgets everything about a name, after it changed.
    pub(super) fn forget(&self, tenant: &str, name: &str) {
        let mut entries = self.entries.write();
        entries.generation += 1;
        if let Some(selectors) = entries.by_tenant.get_mut(tenant) {
            let before = selectors.len();
            selectors.retain(|selector, _| selector.name != name);
            let gone = before - selectors.len();
            entries.count = entries.count.saturating_sub(gone);
        }
    }
}
