//! Which control nodes are known, who answered last, who leads.
//!
//! Invariant: the seeds come first and stay; what was learned is replaced whole by what is learned next. Who was only heard of
//! (by gossip, which anybody may speak) comes last, and is asked when no other answered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Method;
use tokio::time::Instant;

use super::Call;
use crate::chance;
use crate::wire::ClusterView;

/// Members that are taken in beside the seeds.
const MAX_LEARNED: usize = 32;

/// Addresses that were only heard of, at once. Of more some are drawn, so that made-up ones don't keep the others out for ever.
const MAX_HEARD: usize = 8;

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
    /// Base URLs of control nodes that were heard of and not learned; numbered behind `urls`.
    heard: Vec<Arc<str>>,
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
        let (heard, leader, looked_at, looking, is_doubtful) = (Vec::new(), None, None, false, false);
        let state = Mutex::new(State { urls, heard, preferred, leader, looked_at, looking, is_doubtful });
        Some(Self { seeds, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn url_of(&self, at: usize) -> String {
        self.state().at(at).to_string()
    }

    pub(super) fn count(&self) -> usize {
        self.state().count()
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
        let leader = leader.and_then(|url| state.place_of(url));
        let first = call.first.or(leader).unwrap_or(state.preferred);
        Round::new(first % state.count(), state.urls.len(), state.count())
    }

    /// `by` answers.
    pub(super) fn answered(&self, by: usize) {
        let mut state = self.state();
        state.preferred = by % state.count();
    }

    /// `by` could not answer, so it leads no longer, as far as is known.
    pub(super) fn failed(&self, by: usize) {
        let mut state = self.state();
        state.is_doubtful = true;
        if state.leader.as_ref() == Some(state.at(by)) {
            state.leader = None;
        }
    }

    /// Control nodes were heard of, instead of those before; none says nothing.
    pub(super) fn hear_of(&self, urls: &[String]) {
        if urls.is_empty() {
            return;
        }
        let mut state = self.state();
        let preferred = state.at(state.preferred).clone();
        let mut heard: Vec<Arc<str>> = Vec::new();
        for url in urls.iter().map(|url| base_url(url)) {
            if !state.urls.contains(&url) && !heard.contains(&url) {
                heard.push(url);
            }
        }
        while heard.len() > MAX_HEARD {
            let last = heard.len() as u64 - 1;
            heard.swap_remove(usize::try_from(chance::in_range(0..=last)).unwrap_or(0));
        }
        if !heard.contains(&preferred) && !state.urls.contains(&preferred) {
            // It answers, whatever is heard of it.
            heard.push(preferred.clone());
        }
        state.heard = heard;
        state.preferred = state.place_of(&preferred).unwrap_or(0);
    }

    /// A control node says who leads; the leader's index, if it can be taken in.
    pub(super) fn led_by(&self, url: &str) -> Option<usize> {
        let (url, mut state) = (base_url(url), self.state());
        let at = state.place_of(&url);
        let at = at.or_else(|| {
            (state.urls.len() < self.seeds + MAX_LEARNED).then(|| {
                // Whoever was only heard of is numbered one higher from here.
                state.preferred += usize::from(state.preferred >= state.urls.len());
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
        let preferred = state.at(state.preferred).clone();
        state.urls.truncate(self.seeds);
        let leader = view.leader.as_ref().map(|leader| base_url(&leader.url));
        let members = view.members.iter().map(|member| base_url(&member.client_url)).take(MAX_LEARNED);
        for url in members {
            if !state.urls.contains(&url) {
                state.urls.push(url);
            }
        }
        let State { urls, heard, .. } = &mut *state;
        heard.retain(|url| !urls.contains(url));
        state.leader = leader.filter(|url| state.urls.contains(url));
        let preferred = state.place_of(&preferred);
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
    fn count(&self) -> usize {
        self.urls.len() + self.heard.len()
    }

    /// By its number, which wraps around.
    fn at(&self, number: usize) -> &Arc<str> {
        let number = number % self.count();
        self.urls.get(number).unwrap_or_else(|| &self.heard[number - self.urls.len()])
    }

    fn place_of(&self, url: &Arc<str>) -> Option<usize> {
        self.urls.iter().chain(&self.heard).position(|known| known == url)
    }

    fn leader_at(&self) -> Option<usize> {
        self.place_of(self.leader.as_ref()?)
    }
}

/// Held by whoever asks for members.
pub(super) struct Looking<'a>(&'a Known);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.state().looking = false;
    }
}

/// One turn over all control nodes, those that were only heard of last, with at most one detour to who is said to lead.
#[derive(Debug)]
pub(super) struct Round {
    first: usize,
    /// Numbers below are of seeds and of what was learned.
    known: usize,
    count: usize,
    gone: usize,
    redirect: Option<usize>,
    was_redirected: bool,
}

impl Round {
    fn new(first: usize, known: usize, count: usize) -> Self {
        Self { first, known, count, gone: 0, redirect: None, was_redirected: false }
    }

    pub(super) fn next(&mut self) -> Option<usize> {
        if let Some(leader) = self.redirect.take() {
            return Some(leader);
        }
        (self.gone < self.count).then(|| {
            self.gone += 1;
            self.number(self.gone - 1)
        })
    }

    fn number(&self, turn: usize) -> usize {
        if self.first < self.known {
            return if turn < self.known { (self.first + turn) % self.known } else { turn };
        }
        // One that was only heard of answered last: it is asked first, and the others in their order.
        match turn {
            0 => self.first,
            _ if turn <= self.first => turn - 1,
            _ => turn,
        }
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

    fn order(known: &Known, call: &Call) -> Vec<String> {
        let mut round = known.round(call);
        std::iter::from_fn(|| round.next()).map(|at| known.url_of(at)).collect()
    }

    #[tokio::test]
    async fn who_was_only_heard_of_is_asked_when_no_other_answered() {
        let known = known();
        known.hear_of(&["http://h:8".to_owned(), "http://h:1".to_owned(), "http://h:9".to_owned()]);
        let second = Call::get("/v1/x").at(1);
        assert_eq!(order(&known, &second), ["http://h:2", "http://h:1", "http://h:8", "http://h:9"]);
        known.led_by("http://h:3");
        assert_eq!(
            order(&known, &second),
            ["http://h:2", "http://h:3", "http://h:1", "http://h:8", "http://h:9"]
        );
        known.answered(4);
        let any = Call::get("/v1/x");
        let after = ["http://h:9", "http://h:1", "http://h:2", "http://h:3", "http://h:8"];
        assert_eq!(order(&known, &any), after, "one that answered is asked first");
        known.led_by("http://h:4");
        assert_eq!(known.url_of(known.preferred()), "http://h:9");
        known.hear_of(&["http://h:7".to_owned()]);
        assert_eq!(known.url_of(known.preferred()), "http://h:9", "it answers");
        assert_eq!(order(&known, &any).len(), 6);
        known.hear_of(&[]);
        assert_eq!(order(&known, &any).len(), 6, "to hear of nobody says nothing");
    }

    #[tokio::test]
    async fn what_is_heard_does_not_grow_the_list_for_ever() {
        let known = known();
        let urls: Vec<String> = (0..1_000).map(|port| format!("http://h:{}", 10_000 + port)).collect();
        known.hear_of(&urls);
        assert_eq!(known.count(), 2 + MAX_HEARD);
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
