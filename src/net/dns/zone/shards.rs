//! A map of which a copy costs little and shares all that is not changed in it.
//!
//! Names change one at a time, there may be ten thousand of them, and whoever answers questions reads a snapshot.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// What a change copies is the share of one of them.
const SHARDS: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shards<K: Eq + Hash, V>(Vec<Arc<HashMap<K, V>>>);

impl<K: Eq + Hash, V> Default for Shards<K, V> {
    fn default() -> Shards<K, V> {
        Shards(std::iter::repeat_with(Arc::default).take(SHARDS).collect())
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Shards<K, V> {
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0[place(key)].get(key)
    }

    /// What the key had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        Arc::make_mut(&mut self.0[place(&key)]).insert(key, value)
    }

    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let shard = &mut self.0[place(key)];
        shard.contains_key(key).then(|| Arc::make_mut(shard).remove(key)).flatten()
    }
}

/// A key and what it borrows as have the same (`Borrow`).
fn place<Q: Hash + ?Sized>(key: &Q) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    (hasher.finish() % SHARDS as u64) as usize
}
