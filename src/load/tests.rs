use super::*;

const BEAT_MS: u64 = 1_000;

/// A node that leads one shard, heard each second; what it tells is reads.
struct Heard {
    node: NodeLoad,
    now_ms: u64,
}

impl Heard {
    fn new() -> Self {
        let mut heard = Self { node: NodeLoad::default(), now_ms: 5 };
        heard.node.begin(heard.now_ms);
        heard
    }

    fn tell(&mut self, reads: u64, beats: u64) -> Rate {
        for _ in 0..beats {
            self.now_ms += BEAT_MS;
            let span = self.node.begin(self.now_ms);
            let told = Told { shard: ShardId(7), reads: Thousandths(reads), writes: Thousandths(0) };
            if !told.is_zero() || self.node.shards.contains_key(&ShardId(7)) {
                self.node.take_in(&told, span);
            }
        }
        self.node.shards.get(&ShardId(7)).map(|load| load.reads).unwrap_or_default()
    }
}

#[test]
fn a_steady_rate_is_known_from_the_second_heartbeat_on() {
    let mut heard = Heard::new();
    for _ in 0..200 {
        assert_eq!(heard.tell(100_000, 1), Rate { short: 100_000, long: 100_000 });
    }
}

#[test]
fn a_rise_counts_as_the_long_window_has_it_and_a_fall_as_the_short_one_has() {
    let mut heard = Heard::new();
    heard.tell(100_000, 120);
    let rate = heard.tell(1_000_000, 10);
    // 1 - 1/e of the rise after a window's length.
    assert!((640_000..680_000).contains(&rate.short), "{rate:?}");
    assert_eq!(rate.sure(), u64::from(rate.long));
    assert!((220_000..250_000).contains(&rate.long), "{rate:?}");
    heard.tell(1_000_000, 120);
    let rate = heard.tell(100_000, 10);
    assert_eq!(rate.sure(), u64::from(rate.short));
    assert!((410_000..460_000).contains(&rate.short), "{rate:?}");
}

#[test]
fn a_shard_that_falls_idle_is_forgotten_once_both_windows_are_empty() {
    let mut heard = Heard::new();
    heard.tell(5_000, 30);
    assert_eq!(heard.tell(0, 600), Rate::default());
    assert!(heard.node.shards.is_empty());
}

#[test]
fn a_shard_that_was_idle_rises_as_slowly_as_any() {
    let mut heard = Heard::new();
    heard.tell(0, 120);
    let rate = heard.tell(600_000, 1);
    assert!(rate.long < 10_000 && rate.short < 60_000, "{rate:?}");
}

#[test]
fn a_node_that_was_silent_tells_of_no_more_than_a_short_window() {
    let mut heard = Heard::new();
    heard.tell(100_000, 60);
    heard.now_ms += 10 * LONG_MS;
    let rate = heard.tell(1_000_000, 1);
    assert!((540_000..560_000).contains(&rate.short), "{rate:?}");
}

#[test]
fn rates_beyond_all_measure_are_cut_and_overflow_nothing() {
    let mut heard = Heard::new();
    assert_eq!(heard.tell(u64::MAX, 3), Rate { short: u32::MAX, long: u32::MAX });
}

#[test]
fn what_a_primary_had_goes_on_at_the_next_one() {
    let mut old = Heard::new();
    let before = old.tell(500_000, 100);
    let mut new = Heard::new();
    new.tell(0, 100);
    let fresh = new.tell(500_000, 1);
    assert!(fresh.sure() < before.sure() / 10);
    new.node.inherit(ShardId(7), old.node.shards[&ShardId(7)]);
    assert_eq!(new.tell(500_000, 10), before);
}

#[test]
fn load_is_levelled_once_it_was_uneven_for_long_without_a_break_and_until_nothing_is_left_to_do() {
    let mut watch = LoadWatch::default();
    for second in 0..SUSTAINED_MS / 1_000 {
        assert!(!watch.may_level(second * 1_000), "at {second}");
        watch = watch.seen(true, second * 1_000);
    }
    assert!(watch.may_level(SUSTAINED_MS));
    watch = watch.seen(true, SUSTAINED_MS);
    assert!(watch.may_level(SUSTAINED_MS + 1_000));
    assert!(!watch.may_level(SUSTAINED_MS + BREAK_MS + 1), "nobody looked for so long");
    watch = watch.seen(false, SUSTAINED_MS + 1_000);
    assert!(!watch.may_level(SUSTAINED_MS + 2_000));
    // A look after a break begins anew.
    watch = watch.seen(true, 1_000_000);
    watch = watch.seen(true, 1_000_000 + SUSTAINED_MS);
    assert!(!watch.may_level(1_000_000 + SUSTAINED_MS));
}
