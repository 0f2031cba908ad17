//! A task that panics takes only itself down; a run in which one did is a failed run.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static SEEN: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// From here on panics on this thread are collected.
pub fn begin() {
    HOOK.call_once(|| {
        let printing = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let collected = SEEN.with_borrow_mut(|seen| {
                let collected = seen.is_some();
                if let Some(seen) = seen {
                    seen.push(info.to_string());
                }
                collected
            });
            if !collected {
                printing(info);
            }
        }));
    });
    SEEN.set(Some(Vec::new()));
}

/// Those that were collected since [`begin`].
#[must_use]
pub fn end() -> Vec<String> {
    SEEN.take().unwrap_or_default()
}
