//! A small state machine for tests: `key=value` sets, `key` alone removes, and the outcome is the value before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::machine::{Applied, RestoreError, StateMachine};

/// What readers of a [`KvMachine`] see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KvState {
    pub(crate) applied: u64,
    pub(crate) time_ms: u64,
    pub(crate) rows: BTreeMap<Vec<u8>, Bytes>,
}

/// The published state; clones share it.
#[derive(Clone, Default)]
pub(crate) struct KvView {
    state: Arc<Mutex<KvState>>,
}

impl KvView {
    pub(crate) fn state(&self) -> KvState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Bytes> {
        self.state().rows.get(key.as_bytes()).cloned()
    }
}

/// The machine.
#[derive(Default)]
pub(crate) struct KvMachine {
    rows: BTreeMap<Vec<u8>, Bytes>,
    view: KvView,
}

impl KvMachine {
    pub(crate) fn new(view: KvView) -> Self {
        Self { rows: BTreeMap::new(), view }
    }
}

impl StateMachine for KvMachine {
    fn apply(&mut self, _index: u64, _time_ms: u64, command: &[u8]) -> Applied {
        let mut parts = command.splitn(2, |byte| *byte == b'=');
        let key = parts.next().unwrap_or_default().to_vec();
        let value = parts.next().map(Bytes::copy_from_slice);
        let before = match &value {
            Some(value) => self.rows.insert(key.clone(), value.clone()),
            None => self.rows.remove(&key),
        };
        Applied { outcome: before.unwrap_or_default(), rows: vec![(key, value)] }
    }

    fn publish(&mut self, applied: u64, time_ms: u64) {
        let state = KvState { applied, time_ms, rows: self.rows.clone() };
        *self.view.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn rows(&self) -> Box<dyn Iterator<Item = (Vec<u8>, Bytes)> + Send> {
        Box::new(self.rows.clone().into_iter())
    }

    fn restore(
        &mut self,
        _applied: u64,
        _time_ms: u64,
        rows: Vec<(Vec<u8>, Bytes)>,
    ) -> Result<(), RestoreError> {
        self.rows = rows.into_iter().collect();
        Ok(())
    }
}
