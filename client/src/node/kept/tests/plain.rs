//! The plainest database: one file, written anew and synced at each change.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use crate::ids::Position;
use crate::node::store::{Row, ShardStore, Stamp, StoreFault, View};
use crate::replica::{Key, Value};

/// Where changes of a database can be held up.
#[derive(Clone, Default)]
pub(super) struct Gate {
    passage: Arc<Mutex<()>>,
    is_wanted: Arc<AtomicBool>,
}

impl Gate {
    /// Changes wait while this is held.
    pub(super) fn close(&self) -> MutexGuard<'_, ()> {
        let closed = self.passage.lock().unwrap();
        self.is_wanted.store(false, Ordering::SeqCst);
        closed
    }

    /// A change waits.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::SeqCst)
    }
}

pub(super) struct Plain {
    path: PathBuf,
    gate: Gate,
    rows: Mutex<BTreeMap<String, (Position, Vec<u8>)>>,
}

/// What a search of a [`Plain`] sees.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) current: Vec<String>,
    pub(super) fresh: Vec<String>,
    pub(super) all: Vec<String>,
    pub(super) outdated: usize,
}

impl Plain {
    fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, (Position, Vec<u8>)>),
    ) -> Result<(), StoreFault> {
        let mut rows = self.rows.lock().unwrap();
        change(&mut rows);
        let temporary = self.path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&*rows)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        File::open(self.path.parent().unwrap())?.sync_all()?;
        Ok(())
    }
}

impl ShardStore for Plain {
    type Options = Gate;
    type Query = ();
    type Found = Seen;

    fn open(path: &Path, gate: &Gate) -> Result<Self, StoreFault> {
        let rows =
            if path.try_exists()? { serde_json::from_slice(&fs::read(path)?)? } else { BTreeMap::new() };
        let store = Self { path: path.to_owned(), gate: gate.clone(), rows: Mutex::new(rows) };
        store.change(|_| {})?;
        Ok(store)
    }

    fn stamps(&self) -> Result<Vec<Stamp>, StoreFault> {
        let stamp = |(key, (position, value)): (&String, &(Position, Vec<u8>))| Stamp {
            key: key.as_str().into(),
            position: *position,
            bytes: value.len() as u64,
        };
        Ok(self.rows.lock().unwrap().iter().map(stamp).collect())
    }

    fn get(&self, key: &str) -> Result<Option<Value>, StoreFault> {
        Ok(self.rows.lock().unwrap().get(key).map(|(_, value)| value.clone().into()))
    }

    fn write(&self, put: &[Row], remove: &[Key]) -> Result<(), StoreFault> {
        self.gate.is_wanted.store(true, Ordering::SeqCst);
        let _open = self.gate.passage.lock().unwrap();
        self.change(|held| {
            held.extend(put.iter().map(|row| (row.key.to_string(), (row.position, row.value.to_vec()))));
            held.retain(|key, _| !remove.iter().any(|gone| **gone == **key));
        })
    }

    fn search(view: &View<'_, Self>, (): &()) -> Result<Seen, StoreFault> {
        let all = view.rows().map(|row| Ok(row?.key.to_string())).collect::<Result<_, StoreFault>>()?;
        let rows = view.store().rows.lock().unwrap();
        let current = rows.keys().filter(|key| view.is_current(key)).cloned().collect();
        let fresh = view.fresh().iter().map(|row| row.key.to_string()).collect();
        Ok(Seen { current, fresh, all, outdated: view.outdated() })
    }
}
