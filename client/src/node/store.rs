//! What the author of a data node brings: the database of one shard.
//!
//! A database stores values by key, each with the stamp of its write, and searches them. It need not know of epochs, logs or
//! other nodes, nor be atomic over several keys: the journal in front of it ([`kept`](super::kept)) has every write on disk
//! before anything is told, and writes again what a crash took from the database.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::RwLock;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::kept::{Content, unpoison};
use crate::ids::Position;
use crate::replica::{Key, Value};

/// Why a database can't do what was asked; any error will do. The copy counts as damaged from then on, and other copies stand
/// in for it.
pub type StoreFault = Box<dyn std::error::Error + Send + Sync>;

/// A value and its stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Key,
    /// Of the write that made it: to be kept beside it.
    pub position: Position,
    /// What a client wrote; opaque to all but its author.
    pub value: Value,
}

/// A row without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its key.
    pub key: Key,
    /// The stamp that it was put with.
    pub position: Position,
    /// Size of the value, in bytes.
    pub bytes: u64,
}

/// The database of one shard's copy. Calls block; they run on threads for such calls.
///
/// To ensure correctness:
/// - What [`write`](ShardStore::write) did is durable when it returns: the journal that has it too may be dropped from then on.
/// - A crash leaves each row as it was before or after a call, never half of it. Rows may differ in that.
/// - One call changes it at a time; any number read beside it.
pub trait ShardStore: Sized + Send + Sync + 'static {
    /// What all databases of a node are opened with.
    type Options: Clone + Send + Sync + 'static;
    /// What is looked for.
    type Query: Clone + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What was found in one shard.
    type Found: Serialize + DeserializeOwned + Send + 'static;

    /// What of `options` a data directory is bound to, in words, as "64 dimensions"; a node with other ones is refused it.
    fn layout(_options: &Self::Options) -> String {
        String::new()
    }

    /// Opens the database at `path`, a file or a folder as it likes, or makes it. No other copy ever had that path.
    ///
    /// # Errors
    /// When it can't be read, or made.
    fn open(path: &Path, options: &Self::Options) -> Result<Self, StoreFault>;

    /// All rows, in any order. Asked once, after opening.
    ///
    /// # Errors
    /// When they can't be read.
    fn stamps(&self) -> Result<Vec<Stamp>, StoreFault>;

    /// The value of a row.
    ///
    /// # Errors
    /// When it can't be read.
    fn get(&self, key: &str) -> Result<Option<Value>, StoreFault>;

    /// Puts rows in the place of those with the same keys, and removes others. A key is in one of the two at most; one to be
    /// removed need not be there.
    ///
    /// # Errors
    /// When that is not durable.
    fn write(&self, put: &[Row], remove: &[Key]) -> Result<(), StoreFault>;

    /// Searches the shard as it is in `view`: the database, and what it doesn't have yet.
    ///
    /// # Errors
    /// When it can't be searched; the asker is told that the shard is unavailable.
    fn search(view: &View<'_, Self>, query: &Self::Query) -> Result<Self::Found, StoreFault>;
}

/// What a search sees: the database, and what it lacked at one moment. Writes go on meanwhile; each key is seen as it was at some
/// time between the making of the view and the end of the search.
///
/// Why that holds: a key that is fresh in the view is taken from there, whatever the database has of it by now. Any other is
/// taken from the database, which has what the key was when the view was made, or what was flushed since.
pub struct View<'a, S> {
    store: &'a S,
    content: &'a RwLock<Content>,
    fresh: Vec<Row>,
    outdated: BTreeSet<Key>,
}

impl<'a, S: ShardStore> View<'a, S> {
    pub(super) fn new(store: &'a S, content: &'a RwLock<Content>) -> Self {
        let held = unpoison(content.read());
        let fresh = held.fresh(usize::MAX);
        let outdated = held.doomed(usize::MAX).into_iter().chain(fresh.iter().map(|row| row.key.clone()));
        Self { store, content, outdated: outdated.collect(), fresh }
    }

    /// The database; some of its rows may be out of date ([`is_current`](View::is_current)).
    pub fn store(&self) -> &S {
        self.store
    }

    /// Whether the database's row of `key` counts.
    pub fn is_current(&self, key: &str) -> bool {
        !self.outdated.contains(key)
    }

    /// At most so many of the database's rows don't: whoever asks it for the best few asks for so many more.
    pub fn outdated(&self) -> usize {
        self.outdated.len()
    }

    /// All rows, ascending by key, read one after the other: for databases that search by looking at each.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn rows(&self) -> impl Iterator<Item = Result<Row, StoreFault>> {
        let keys = unpoison(self.content.read()).keys();
        keys.into_iter().filter_map(|key| unpoison(self.content.read()).row(&key, self.store).transpose())
    }

    /// The rows that the database doesn't have yet.
    pub fn fresh(&self) -> &[Row] {
        &self.fresh
    }
}
