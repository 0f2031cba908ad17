//! Which control nodes are known, who answered last, who leads.
//!
//! Invariant: the seeds come first and stay; what was learned is replaced whole by what is learned next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Method;
use tokio::time::Instant;

use super::Call;
use crate::chance;
use crate::wire::ClusterView;

/// Members that are taken in beside the seeds.
const MAX_LEARNED: usize = 32;

/// Members are asked for no more often, in milliseconds, whatever fails.
const LOOK_EVERY_MS: u64 = 1_000;

#[derive(Debug)]
pub(super) struct Known {
    seeds: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Base URLs: the seeds, then what was learned.
    urls: Vec<Arc<str>>,
    preferred: usize,
    leader: Option<Arc<str>>,
    looked_at: Option<Instant>,
    looking: bool,
    /// What was learned may be wrong now.
    is_doubtful: bool,
}

impl Known {
    /// None without a seed.
    pub(super) fn new(seeds: &[String]) -> Option<Self> {
        let urls: Vec<Arc<str>> = seeds.iter().map(|seed| base_url(seed)).collect();
        let last = urls.len().checked_sub(1)? as u64;
        // Nodes that start together should not all ask the same control node.
        let preferred = usize::try_from(chance::in_range(0..=last)).unwrap_or(0);
        let seeds = urls.len();
        let (leader, looked_at, looking, is_doubtful) = (None, None, false, false);
        let state = Mutex::new(State { urls, preferred, leader, looked_at, looking, is_doubtful });
        Some(Self { seeds, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn url_of(&self, at: usize) -> String {
        let state = self.state();
        state.urls[at % state.urls.len()].to_string()
    }

    pub(super) fn count(&self) -> usize {
        self.state().urls.len()
    }

    pub(super) fn preferred(&self) -> usize {
        self.state().preferred
    }

    pub(super) fn leader_url(&self) -> Option<String> {
        self.state().leader.as_deref().map(str::to_owned)
    }

    /// Whom to ask for `call`, in order.
    pub(super) fn round(&self, call: &Call) -> Round {
        let state = self.state();
        let leader = state.leader.as_ref().filter(|_| call.method != Method::GET);
        let leader = leader.and_then(|url| state.urls.iter().position(|known| known == url));
        let first = call.first.or(leader).unwrap_or(state.preferred);
        let count = state.urls.len();
        Round { first: first % count, count, gone: 0, redirect: None, was_redirected: false }
    }

    /// `by` answers.
    pub(super) fn answered(&self, by: usize) {
        let mut state = self.state();
        state.preferred = by % state.urls.len();
    }

    /// `by` could not answer, so it leads no longer, as far as is known.
    pub(super) fn failed(&self, by: usize) {
        let mut state = self.state();
        state.is_doubtful = true;
        let url = &state.urls[by % state.urls.len()];
        if state.leader.as_ref() == Some(url) {
            state.leader = None;
        }
    }

    /// A control node says who leads; the leader's index, if it can be taken in.
    pub(super) fn led_by(&self, url: &str) -> Option<usize> {
        let (url, mut state) = (base_url(url), self.state());
        let at = state.urls.iter().position(|known| *known == url);
        let at = at.or_else(|| {
            (state.urls.len() < self.seeds + MAX_LEARNED).then(|| {
                state.urls.push(url.clone());
                state.urls.len() - 1
            })
        })?;
        state.leader = Some(url);
        Some(at)
    }

    /// Takes what a control node says of all.
    pub(super) fn learn(&self, view: &ClusterView) {
        let mut state = self.state();
        let preferred = state.urls[state.preferred].clone();
        state.urls.truncate(self.seeds);
        let leader = view.leader.as_ref().map(|leader| base_url(&leader.url));
        let members = view.members.iter().map(|member| base_url(&member.client_url)).take(MAX_LEARNED);
        for url in members {
            if !state.urls.contains(&url) {
                state.urls.push(url);
            }
        }
        state.leader = leader.filter(|url| state.urls.contains(url));
        let preferred = state.urls.iter().position(|url| *url == preferred);
        state.preferred = preferred.or(state.leader_at()).unwrap_or(0);
        state.is_doubtful = false;
    }

    /// Whether members were last asked for so long ago; sooner where something failed since.
    pub(super) fn is_due(&self, every_ms: u64) -> bool {
        let state = self.state();
        let every_ms = if state.is_doubtful { LOOK_EVERY_MS } else { every_ms };
        state.looked_at.is_none_or(|at| super::millis(at.elapsed()) >= every_ms)
    }

    /// None while somebody looks, or just did.
    pub(super) fn begin_looking(&self) -> Option<Looking<'_>> {
        let mut state = self.state();
        let lately = state.looked_at.is_some_and(|at| super::millis(at.elapsed()) < LOOK_EVERY_MS);
        if state.looking || lately {
            return None;
        }
        state.looking = true;
        state.looked_at = Some(Instant::now());
        Some(Looking(self))
    }
}

impl State {
    fn leader_at(&self) -> Option<usize> {
        let leader = self.leader.as_ref()?;
        self.urls.iter().position(|url| url == leader)
    }
}

/// Held by whoever asks for members.
pub(super) struct Looking<'a>(&'a Known);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.state().looking = false;
    }
}

/// One turn over all control nodes, with at most one detour to who is said to lead.
#[derive(Debug)]
pub(super) struct Round {
    first: usize,
    count: usize,
    gone: usize,
    redirect: Option<usize>,
    was_redirected: bool,
}

impl Round {
    pub(super) fn next(&mut self) -> Option<usize> {
        if let Some(leader) = self.redirect.take() {
            return Some(leader);
        }
        (self.gone < self.count).then(|| {
            self.gone += 1;
            (self.first + self.gone - 1) % self.count
        })
    }

    pub(super) fn redirect(&mut self, leader: usize) {
        if !std::mem::replace(&mut self.was_redirected, true) {
            self.redirect = Some(leader);
        }
    }
}

fn base_url(addr: &str) -> Arc<str> {
    let addr = addr.trim_end_matches('/');
    if addr.contains("://") { addr.into() } else { format!("http://{addr}").into() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn known() -> Known {
        Known::new(&["h:1".to_owned(), "http://h:2/".to_owned()]).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn members_are_due_at_first_then_now_and_then_and_sooner_when_something_failed() {
        let known = known();
        assert!(known.is_due(60_000));
        drop(known.begin_looking().unwrap());
        assert!(!known.is_due(60_000) && known.begin_looking().is_none());
        known.failed(1);
        assert!(!known.is_due(60_000), "it was just asked");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(known.is_due(60_000));
        let looking = known.begin_looking().unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(known.begin_looking().is_none(), "one looks at a time");
        drop(looking);
        assert!(known.begin_looking().is_some());
    }

    #[tokio::test]
    async fn a_round_asks_everybody_once_and_makes_one_detour() {
        let known = known();
        assert_eq!(known.led_by("http://h:3"), Some(2));
        let mut round = known.round(&Call::get("/v1/x").at(1));
        assert_eq!(round.next(), Some(1));
        round.redirect(2);
        assert_eq!((round.next(), round.next()), (Some(2), Some(2)));
        round.redirect(1);
        assert_eq!((round.next(), round.next()), (Some(0), None), "no second detour");
    }

    #[tokio::test]
    async fn what_control_nodes_say_of_leaders_does_not_grow_the_list_for_ever() {
        let known = known();
        for port in 0..1_000 {
            known.led_by(&format!("http://h:{port}"));
        }
        assert_eq!(known.count(), 2 + MAX_LEARNED);
    }
}
