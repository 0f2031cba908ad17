//! Reads every vector again, and compares the nearest neighbours with brute force.

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};

use crate::data::DataClient;
use crate::digits::Digit;
use crate::ledger::Ledger;
use crate::load::{TOLERANCE, is_digit, metadata_of, version_of};

/// Requests at once.
const AT_ONCE: usize = 8;
/// Digits whose neighbours are compared.
const SEARCHES: usize = 200;
/// Neighbours of each.
const NEIGHBOURS: usize = 10;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verified {
    /// Vectors that were acknowledged.
    pub(crate) expected: usize,
    /// Of those, found as they were written.
    pub(crate) found: usize,
    /// Acknowledged and not there.
    pub(crate) lost: Vec<String>,
    /// There, but not as written.
    pub(crate) wrong: Vec<String>,
    /// Searches made.
    pub(crate) searches: usize,
    /// Searches whose neighbours are not those that brute force finds.
    pub(crate) disagreeing: Vec<String>,
}

enum Judgement {
    Found,
    Lost(String),
    Wrong(String),
}

/// Looks at everything.
pub(crate) async fn verify(client: &DataClient, digits: &[Digit], ledger: &Ledger) -> Result<Verified> {
    let mut verified = Verified::default();
    let loaded = futures::stream::iter(digits.iter().enumerate())
        .map(|(turn, digit)| judge_digit(client, turn, digit));
    let judged: Vec<Judgement> = loaded.buffer_unordered(AT_ONCE).try_collect().await?;
    judged.into_iter().for_each(|judgement| verified.take(judgement));

    let written = ledger.all().into_iter().filter(|(_, versions)| versions.acknowledged > 0);
    let written = futures::stream::iter(written.enumerate()).map(async |(turn, (key, versions))| {
        let Some(found) = client.read(turn, &key).await? else { return Ok(Judgement::Lost(key)) };
        let version = version_of(&key, &found.vector);
        let is_kept =
            version.is_some_and(|version| (versions.acknowledged..=versions.attempted).contains(&version));
        let is_whole = version.is_some_and(|version| found.metadata == metadata_of(version));
        Ok::<_, anyhow::Error>(if is_kept && is_whole {
            Judgement::Found
        } else {
            Judgement::Wrong(format!(
                "{key}: version {version:?}, and {} was acknowledged",
                versions.acknowledged
            ))
        })
    });
    let judged: Vec<Judgement> = written.buffer_unordered(AT_ONCE).try_collect().await?;
    judged.into_iter().for_each(|judgement| verified.take(judgement));

    for turn in 0..SEARCHES.min(digits.len()) {
        let digit = &digits[turn * digits.len() / SEARCHES.min(digits.len())];
        let found = client.search(turn, &digit.vector, NEIGHBOURS).await?;
        let found: Vec<f64> = found.iter().map(|neighbour| neighbour.score).collect();
        let expected = nearest(digits, &digit.vector);
        let agrees = |(a, b): (&f64, &f64)| (a - b).abs() < TOLERANCE;
        verified.searches += 1;
        if found.len() != expected.len() || !found.iter().zip(&expected).all(agrees) {
            verified.disagreeing.push(format!("{}: distances {found:?}, brute force {expected:?}", digit.id));
        }
    }
    Ok(verified)
}

impl Verified {
    fn take(&mut self, judgement: Judgement) {
        self.expected += 1;
        match judgement {
            Judgement::Found => self.found += 1,
            Judgement::Lost(what) => self.lost.push(what),
            Judgement::Wrong(what) => self.wrong.push(what),
        }
    }
}

async fn judge_digit(client: &DataClient, turn: usize, digit: &Digit) -> Result<Judgement> {
    Ok(match client.read(turn, &digit.id).await? {
        None => Judgement::Lost(digit.id.clone()),
        found if is_digit(found.as_ref(), digit) => Judgement::Found,
        Some(found) => Judgement::Wrong(format!("{}: {found:?}", digit.id)),
    })
}

/// Distances of the nearest digits, ascending. What the load writes is farther from every digit than any digit is.
fn nearest(digits: &[Digit], vector: &[f32]) -> Vec<f64> {
    let distance = |digit: &Digit| {
        let squares = digit.vector.iter().zip(vector).map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let mut distances: Vec<f64> = digits.iter().map(distance).collect();
    distances.sort_by(f64::total_cmp);
    distances.truncate(NEIGHBOURS);
    distances
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brute_force_finds_the_vector_itself_first() {
        let digit = |n: u8| Digit { id: n.to_string(), vector: vec![f32::from(n), 0.0], label: 0 };
        let digits: Vec<Digit> = (0..20).map(digit).collect();
        let found = nearest(&digits, &[5.0, 0.0]);
        assert_eq!(found, [0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 5.0]);
    }
}
