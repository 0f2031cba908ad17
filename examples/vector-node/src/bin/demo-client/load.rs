//! The client that reads, writes and searches without pause, and checks each answer.
//!
//! Written vectors carry their version in the first number, far from every digit, so that a search for a digit has one
//! right answer. Each key has one writer; a read that began after version v was acknowledged must find v or a later one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::data::{DataClient, Found, point};
use crate::digits::{DIMENSIONS, Digit};
use crate::ledger::{Ledger, Tally};

/// Writers, each with keys of its own.
const WRITERS: usize = 2;
/// Readers.
const READERS: usize = 2;
/// Searchers.
const SEARCHERS: usize = 1;
/// Readers who want only a few shards.
const FOCUSED: usize = 6;
/// Keys of each writer.
const KEYS: usize = 100;
/// Between two operations of one worker: the demo shares its machine with nine nodes.
const PAUSE: Duration = Duration::from_millis(2);
/// Added to the version; digits have at most 16 in each place.
const FAR: f32 = 1_000.0;
/// Distances that differ by less are equal.
pub(crate) const TOLERANCE: f64 = 1e-3;

/// The vector of a key's version.
pub(crate) fn vector_of(key: &str, version: u32) -> Vec<f32> {
    let mut vector: Vec<f32> = key.bytes().cycle().take(DIMENSIONS).map(f32::from).collect();
    // Exact below 2^24.
    vector[0] = FAR + version as f32;
    vector
}

/// The version that a vector carries, where it is one of `key`'s.
pub(crate) fn version_of(key: &str, vector: &[f32]) -> Option<u32> {
    let version = (vector.first()? - FAR) as u32;
    (vector_of(key, version) == vector).then_some(version)
}

/// What is written with it.
pub(crate) fn metadata_of(version: u32) -> Value {
    json!({ "version": version })
}

/// The running load; it ends when dropped or stopped.
pub(crate) struct Load {
    workers: JoinSet<Result<()>>,
}

#[derive(Clone)]
struct Worker {
    number: usize,
    client: DataClient,
    ledger: Ledger,
    tally: Tally,
    digits: Arc<Vec<Digit>>,
}

impl Load {
    /// Begins.
    pub(crate) fn start(client: &DataClient, ledger: &Ledger, tally: &Tally, digits: &[Digit]) -> Self {
        let digits = Arc::new(digits.to_vec());
        let worker = |number: usize| Worker {
            number,
            client: client.clone(),
            ledger: ledger.clone(),
            tally: tally.clone(),
            digits: Arc::clone(&digits),
        };
        let mut workers = JoinSet::new();
        for number in 0..WRITERS {
            workers.spawn(worker(number).write_on());
        }
        for number in WRITERS..WRITERS + READERS {
            workers.spawn(worker(number).read_on());
        }
        for number in WRITERS + READERS..WRITERS + READERS + SEARCHERS {
            workers.spawn(worker(number).search_on());
        }
        Self { workers }
    }

    /// More readers, of `digits` alone, without a pause between two reads. Answers how many.
    pub(crate) fn focus(&mut self, client: &DataClient, tally: &Tally, digits: &[Digit]) -> usize {
        let digits = Arc::new(digits.to_vec());
        for number in 0..FOCUSED {
            let (client, tally, digits) = (client.clone(), tally.clone(), Arc::clone(&digits));
            self.workers.spawn(async move {
                for turn in 0.. {
                    read_digit(&client, &tally, &digits, number, turn).await?;
                }
                Ok(())
            });
        }
        FOCUSED
    }

    /// Fails when a worker gave up.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.workers.try_join_next() {
            None => Ok(()),
            Some(ended) => ended.context("a worker of the load")?.context("a worker of the load gave up"),
        }
    }

    /// Ends every worker at once; a write that is under way may or may not have been taken.
    pub(crate) async fn stop(mut self) {
        self.workers.shutdown().await;
    }
}

impl Worker {
    async fn write_on(self) -> Result<()> {
        for turn in 0.. {
            let key = format!("live-{}-{}", self.number, turn % KEYS);
            let version = self.ledger.attempt(&key);
            let points = [point(&key, &vector_of(&key, version), metadata_of(version))];
            self.client.write(self.number + turn, &points).await?;
            self.ledger.acknowledge(&key, version);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn read_on(self) -> Result<()> {
        for turn in 0.. {
            // Steps that are prime to the counts reach every key.
            match self.ledger.any(turn * 37 + self.number) {
                Some(key) if turn % 2 == 0 => self.read_live(turn, &key).await?,
                _ => read_digit(&self.client, &self.tally, &self.digits, self.number, turn).await?,
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn read_live(&self, turn: usize, key: &str) -> Result<()> {
        let least = self.ledger.versions(key).acknowledged;
        let found = self.client.read(self.number + turn, key).await?;
        let most = self.ledger.versions(key).attempted;
        let version = found.as_ref().and_then(|found| version_of(key, &found.vector));
        if !version.is_some_and(|version| (least..=most).contains(&version)) {
            self.tally
                .wrong(format!("{key}: version {version:?} found, {least} to {most} expected: {found:?}"));
        }
        Ok(())
    }

    async fn search_on(self) -> Result<()> {
        for turn in 0.. {
            let digit = &self.digits[(turn * 103) % self.digits.len()];
            let found = self.client.search(self.number + turn, &digit.vector, 3).await?;
            let is_itself = found.first().is_some_and(|nearest| nearest.score.abs() < TOLERANCE);
            if found.len() != 3 || !is_itself {
                self.tally.wrong(format!("the nearest to {} are {found:?}", digit.id));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

async fn read_digit(
    client: &DataClient,
    tally: &Tally,
    digits: &[Digit],
    number: usize,
    turn: usize,
) -> Result<()> {
    let digit = &digits[(turn * 101 + number) % digits.len()];
    let found = client.read(number + turn, &digit.id).await?;
    if !is_digit(found.as_ref(), digit) {
        tally.wrong(format!("{} was answered {found:?}", digit.id));
    }
    Ok(())
}

/// Whether a digit was found as it was loaded.
pub(crate) fn is_digit(found: Option<&Found>, digit: &Digit) -> bool {
    found.is_some_and(|found| found.vector == digit.vector && found.metadata["digit"] == digit.label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_tells_its_key_and_version() {
        let vector = vector_of("live-1-2", 77);
        assert_eq!(version_of("live-1-2", &vector), Some(77));
        assert_eq!(version_of("live-1-3", &vector), None);
        assert_eq!(version_of("live-1-2", &[]), None);
    }
}
