//! The handwritten digits of examples/vector-node/data.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Pixels of an image.
pub(crate) const DIMENSIONS: usize = 64;

/// One image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Digit {
    /// `digit-0` and so on, in the file's order.
    pub(crate) id: String,
    /// Grey values, 0 to 16.
    pub(crate) vector: Vec<f32>,
    /// What it shows.
    pub(crate) label: u8,
}

/// Reads the unpacked file.
pub(crate) fn read(path: &Path) -> Result<Vec<Digit>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let digits: Result<Vec<Digit>> = text.lines().enumerate().map(|(n, line)| parse(n, line)).collect();
    let digits = digits.with_context(|| path.display().to_string())?;
    ensure!(!digits.is_empty(), "{} is empty", path.display());
    Ok(digits)
}

fn parse(n: usize, line: &str) -> Result<Digit> {
    let numbers: Result<Vec<u8>, _> = line.split(',').map(|text| text.trim().parse::<u8>()).collect();
    let numbers = numbers.with_context(|| format!("line {}", n + 1))?;
    ensure!(numbers.len() == DIMENSIONS + 1, "line {} has {} numbers", n + 1, numbers.len());
    let (pixels, label) = numbers.split_at(DIMENSIONS);
    ensure!(label[0] <= 9, "line {} shows a {}", n + 1, label[0]);
    let vector = pixels.iter().map(|grey| f32::from(*grey)).collect();
    Ok(Digit { id: format!("digit-{n}"), vector, label: label[0] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_64_greys_and_the_digit() {
        let line = (0..64).map(|n| (n % 17).to_string()).collect::<Vec<_>>().join(",") + ",7";
        let digit = parse(3, &line).unwrap();
        assert_eq!((digit.id.as_str(), digit.label, digit.vector[16]), ("digit-3", 7, 16.0));
        for bad in ["1,2,3", "", &line.replace(",7", ",x"), &line.replace(",7", ",10")] {
            assert!(parse(0, bad).is_err(), "{bad}");
        }
    }
}
