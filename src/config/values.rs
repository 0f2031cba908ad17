//! Where each option's text comes from: flag, environment, file or default, in this order.
//!
//! A value keeps where it came from, so that an error names what the operator typed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::options::{OPTIONS, OptionSpec};

/// A bad option; the process exits 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct ConfigError {
    /// As the operator typed it: `--num-shards`, `RUVECTOR_CLUSTER_NUM_SHARDS`, `num_shards in FILE`.
    pub key: String,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// A TOML file.
    File(PathBuf),
    /// The table of options.
    Default,
}

#[derive(Clone, Debug)]
struct Value {
    text: String,
    origin: Origin,
}

/// What was given, before it is understood.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// By option key.
    pub flags: BTreeMap<String, String>,
    /// The whole environment, or what a test makes of it.
    pub environment: BTreeMap<String, String>,
    /// Path and text of the TOML file.
    pub file: Option<(PathBuf, String)>,
    /// Instead of the table's defaults, by option key.
    pub defaults: BTreeMap<String, String>,
}

/// Each option's text and where it came from.
#[derive(Clone, Debug)]
pub struct Values(BTreeMap<&'static str, Value>);

impl Values {
    /// Takes each option from the first source that has it.
    ///
    /// # Errors
    /// [`ConfigError`] for a file that is no TOML, has an unknown key or a value of no fitting type.
    pub fn resolve(sources: &Sources) -> Result<Self, ConfigError> {
        let file = match &sources.file {
            Some((path, text)) => read_file(path, text)?,
            None => BTreeMap::new(),
        };
        let mut values = BTreeMap::new();
        for spec in OPTIONS {
            let file_origin = || Origin::File(sources.file.as_ref().map(|f| f.0.clone()).unwrap_or_default());
            let found = sources
                .flags
                .get(spec.key)
                .map(|text| Value { text: text.clone(), origin: Origin::Flag })
                .or_else(|| {
                    let text = sources.environment.get(&spec.env())?.clone();
                    Some(Value { text, origin: Origin::Environment })
                })
                .or_else(|| Some(Value { text: file.get(spec.key)?.clone(), origin: file_origin() }))
                .or_else(|| {
                    let text = sources.defaults.get(spec.key).map(String::as_str).or(spec.default)?;
                    Some(Value { text: text.to_owned(), origin: Origin::Default })
                });
            if let Some(value) = found {
                values.insert(spec.key, value);
            }
        }
        Ok(Self(values))
    }

    /// The text of an option, trimmed; None where it is absent or empty.
    pub fn text(&self, key: &'static str) -> Option<&str> {
        self.0.get(key).map(|v| v.text.trim()).filter(|t| !t.is_empty())
    }

    /// An error about an option, named as it was typed.
    pub fn refuse(&self, key: &'static str, why: impl fmt::Display) -> ConfigError {
        let flag = || format!("--{key}");
        let spec = OPTIONS.iter().find(|s| s.key == key);
        let key = match (self.0.get(key).map(|v| &v.origin), spec) {
            (Some(Origin::Environment), Some(spec)) => spec.env(),
            (Some(Origin::File(path)), Some(spec)) => format!("{} in {}", spec.file_key(), path.display()),
            _ => flag(),
        };
        ConfigError { key, why: why.to_string() }
    }

    /// A required option.
    ///
    /// # Errors
    /// [`ConfigError`] when it is absent.
    pub fn required(&self, key: &'static str) -> Result<&str, ConfigError> {
        self.text(key).ok_or_else(|| self.refuse(key, "is required"))
    }

    /// An integer within bounds.
    ///
    /// # Errors
    /// [`ConfigError`] when it is absent, no integer or out of bounds.
    pub fn integer(&self, key: &'static str, min: u64, max: u64) -> Result<u64, ConfigError> {
        let text = self.required(key)?;
        match text.parse::<u64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(n),
            _ => Err(self.refuse(key, format!("{text:?} is not an integer from {min} to {max}"))),
        }
    }

    /// A duration in milliseconds within bounds.
    ///
    /// # Errors
    /// [`ConfigError`] when it is absent, no duration or out of bounds.
    pub fn duration_ms(&self, key: &'static str, min_ms: u64, max_ms: u64) -> Result<u64, ConfigError> {
        let text = self.required(key)?;
        let ms = parse_duration_ms(text).map_err(|why| self.refuse(key, why))?;
        if !(min_ms..=max_ms).contains(&ms) {
            return Err(self.refuse(key, format!("{text} is not between {min_ms}ms and {max_ms}ms")));
        }
        Ok(ms)
    }

    /// A socket address.
    ///
    /// # Errors
    /// [`ConfigError`] when it is none.
    pub fn address(&self, key: &'static str) -> Result<Option<SocketAddr>, ConfigError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                self.refuse(key, format!("{text:?} is not IP:PORT, such as 127.0.0.1:7000 or [::1]:7000"))
            })
        };
        self.text(key).map(parse).transpose()
    }

    /// Whether a switch is on.
    ///
    /// # Errors
    /// [`ConfigError`] when it is neither true nor false.
    pub fn switch(&self, key: &'static str) -> Result<bool, ConfigError> {
        match self.text(key) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(self.refuse(key, format!("{other:?} is neither true nor false"))),
        }
    }
}

/// `5s`, `500ms`, `1m`, `2h`: an integer and its unit.
///
/// # Errors
/// A sentence saying what was expected.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let refuse = || format!("{text:?} is not a duration such as 500ms, 5s, 2m or 1h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let scale = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(refuse()),
    };
    number.checked_mul(scale).ok_or_else(refuse)
}

fn read_file(path: &Path, text: &str) -> Result<BTreeMap<&'static str, String>, ConfigError> {
    let refuse = |key: &str, why: String| ConfigError { key: format!("{key} in {}", path.display()), why };
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| ConfigError {
        key: path.display().to_string(),
        why: format!("is no TOML: {}", e.to_string().trim_end().replace('\n', " ")),
    })?;
    let mut values = BTreeMap::new();
    for (key, value) in table {
        let spec: &OptionSpec =
            OPTIONS.iter().find(|spec| spec.file_key() == key || spec.key == key).ok_or_else(|| {
                refuse(&key, "is not a known option (see `ruvector-cluster server --help`)".into())
            })?;
        let text = file_text(&value).ok_or_else(|| {
            refuse(&key, "is neither text, an integer, a boolean nor a list of text".into())
        })?;
        if values.insert(spec.key, text).is_some() {
            return Err(refuse(&key, "is given twice".into()));
        }
    }
    Ok(values)
}

fn file_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(n) => Some(n.to_string()),
        toml::Value::Boolean(b) => Some(b.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            Some(items?.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}
