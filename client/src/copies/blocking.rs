//! A store whose calls block, run on the threads for such calls.
//!
//! Caveats: where panics abort the process, as in this workspace's release profile, none is survived here. A call goes on to
//! its end also where nobody waits for it any more. The shell always waits.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinError;

use super::store::{Carried, CopySize, CopyStore, Idle, PutOff};
use crate::replica::store::{ReplicaStore, StoreAction, StoreError, StoreResult, StoreState};

/// A [`ReplicaStore`] that the shell can use. Calls block, [`size`](BlockingStore::size) apart.
pub trait BlockingStore: ReplicaStore + 'static {
    /// As [`CopyStore::size`].
    fn size(&self) -> Option<CopySize>;

    /// Carries out `actions` in order and says what came of them. Where that is fewer than there are, the next one found no
    /// space. A store that lets appends share an fsync has its own.
    fn carry_out_all(&self, actions: &[StoreAction]) -> Vec<StoreResult> {
        let mut results = Vec::new();
        for action in actions {
            match self.carry_out(action) {
                Ok(result) => results.push(result),
                Err(StoreError::Full) => break,
                Err(error) => {
                    tracing::error!(%error, "the copy failed");
                    results.push(StoreResult::Failed);
                }
            }
        }
        results
    }

    /// As [`CopyStore::tend`].
    ///
    /// # Errors
    /// When that failed; whatever follows from it, later actions say.
    fn tend(&self, _idle: Idle) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// As [`CopyStore::close`].
    ///
    /// # Errors
    /// When that failed.
    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A [`BlockingStore`] as a [`CopyStore`].
#[derive(Debug)]
pub struct Blocking<S>(Arc<S>);

impl<S: BlockingStore> Blocking<S> {
    /// The store of one copy.
    pub fn new(store: S) -> Self {
        Self(Arc::new(store))
    }

    /// Runs `call` on a thread for such calls; `None` where it panicked.
    pub async fn run<T, F>(&self, call: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&S) -> T + Send + 'static,
    {
        let done = self.on_thread(call).await;
        done.inspect_err(|error| tracing::error!(%error, "a store's call panicked")).ok()
    }

    async fn on_thread<T, F>(&self, call: F) -> Result<T, JoinError>
    where
        T: Send + 'static,
        F: FnOnce(&S) -> T + Send + 'static,
    {
        let store = self.0.clone();
        tokio::task::spawn_blocking(move || call(&store)).await
    }
}

#[async_trait]
impl<S: BlockingStore> CopyStore for Blocking<S> {
    async fn found(&self) -> Result<Option<StoreState>, StoreError> {
        let found = self.on_thread(ReplicaStore::state).await;
        found.map_err(|error| StoreError::Unreachable(Box::new(error)))?
    }

    async fn carry_out(&self, mut actions: Vec<StoreAction>) -> Carried {
        let count = actions.len();
        let carried = self.run(move |store| {
            let results = store.carry_out_all(&actions);
            let left = actions.split_off(results.len());
            Carried { results, left }
        });
        // After a panic what was left behind is not to be trusted.
        let failed = || Carried { results: vec![StoreResult::Failed; count], left: Vec::new() };
        carried.await.unwrap_or_else(failed)
    }

    async fn tend(&self, idle: Idle) -> PutOff {
        match self.run(move |store| store.tend(idle)).await {
            Some(Ok(true)) => PutOff::Some,
            Some(Ok(false)) | None => PutOff::Nothing,
            Some(Err(error)) => {
                tracing::error!(%error, "what a copy had put off could not be done");
                PutOff::Stuck
            }
        }
    }

    fn size(&self) -> Option<CopySize> {
        self.0.size()
    }

    async fn close(&self) {
        if let Some(Err(error)) = self.run(BlockingStore::close).await {
            tracing::warn!(%error, "a copy was not closed; the next opening takes longer");
        }
    }
}
