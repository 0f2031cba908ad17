//! Plain lines with times.

use std::time::Duration;

use tokio::time::Instant;

/// Says what happens, and when.
#[derive(Clone, Copy, Debug)]
pub struct Narrator {
    started: Instant,
}

impl Narrator {
    /// Time counts from here.
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Prints a line.
    pub fn say(&self, text: impl AsRef<str>) {
        println!("[{:6.1} s] {}", self.started.elapsed().as_secs_f64(), text.as_ref());
    }
}

/// `412 ms`, `4.6 s`.
pub fn spell(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// `1,797`.
pub fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn short_times_are_spelled_in_milliseconds() {
        assert_eq!(spell(Duration::from_millis(412)), "412 ms");
        assert_eq!(spell(Duration::from_millis(4_640)), "4.6 s");
    }
}
