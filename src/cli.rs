//! The command line: its grammar and help, made from the table of options.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{Config, ConfigError, ENV_PREFIX, OPTIONS, Sources};

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run a control node.
    Server(Box<Config>),
    /// Run one control node by itself, in a directory that goes with it unless `--data-dir` was given.
    Dev {
        /// Its settings; an empty `data_dir` stands for a temporary directory.
        config: Box<Config>,
    },
    /// Check a backup and tell what it holds.
    Inspect {
        /// The file.
        from: PathBuf,
    },
    /// Begin a new cluster from a backup, offline.
    Restore {
        /// The file.
        from: PathBuf,
        /// The control node that it begins with.
        config: Box<Config>,
    },
}

/// Why a command line was not understood; the process exits 2 (or 0, where it was `--help`).
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The grammar.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// A value.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

const ABOUT: &str =
    "Coordinates a sharded vector database: which node holds which shard, replicated by Raft.";

const AFTER_HELP: &str = "\
Three control nodes on one machine:
  for i in 1 2 3; do
    ruvector-cluster server --node-id n$i --listen 127.0.0.1:700$i --data-dir /tmp/n$i \\
        --seeds 127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003 &
  done
  curl 'http://127.0.0.1:7001/v1/health?wait_ms=10000'
One control node to try things out:
  ruvector-cluster dev
A backup, and a new cluster from it after all control nodes were lost (docs/operations.md):
  curl -fsS -o backup.snapshot http://127.0.0.1:7001/v1/snapshot
  ruvector-cluster snapshot inspect --from backup.snapshot
  ruvector-cluster snapshot restore --from backup.snapshot --node-id n1 --listen 127.0.0.1:7001 --data-dir /tmp/new-n1";

const INSPECT_HELP: &str = "\
Reads the whole file and compares every checksum, then every rule that the state must keep. Exit codes: 0 the
backup can be used, 1 it can't (says what is wrong, and at which byte), 2 a bad flag.";

const RESTORE_HELP: &str = "\
Give the options with which `server` is to be started on that directory afterwards. What it makes is a new
cluster of one control node, one generation later; the others join it with empty directories. Stop all old
control nodes first, restore once, and start the restored node before the empty ones. Until
POST /v1/cluster/resume nothing is served.

A directory that is not empty is refused, as is a file that is damaged or of a newer version.";

const OPTION_HELP: &str = "\
Each option can also stand in the TOML file (`num_shards = 64`) and in the environment
(RUVECTOR_CLUSTER_NUM_SHARDS=64). A flag beats the environment, that the file, that the default.
Durations are integers with a unit: 500ms, 5s, 2m, 1h.

Exit codes: 0 stopped as asked (SIGTERM or SIGINT; a second one stops at once), 1 failed while
starting or running (says what, where and what to do), 2 a bad flag, environment value or file.";

/// The grammar.
pub fn command() -> Command {
    let server = with_options(Command::new("server").about("Run a control node"));
    let dev = with_options(Command::new("dev").about(
        "Run one control node by itself on loopback, in a temporary directory; prints its URL on the first line",
    ));
    Command::new("ruvector-cluster")
        .about(ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(AFTER_HELP)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(server)
        .subcommand(dev)
        .subcommand(snapshot())
}

fn snapshot() -> Command {
    let from =
        || Arg::new(FROM).long(FROM).value_name("FILE").required(true).help("A backup (GET /v1/snapshot)");
    let inspect = Command::new("inspect").visible_alias("verify").arg(from()).after_help(INSPECT_HELP);
    let inspect = inspect.about("Check a backup and tell what it holds");
    let restore = Command::new("restore").about("Begin a new cluster from a backup, offline").arg(from());
    let restore = with_options(restore).after_help(format!("{RESTORE_HELP}\n\n{OPTION_HELP}"));
    Command::new("snapshot")
        .about("Backups: inspect one, or restore from it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(inspect)
        .subcommand(restore)
}

fn with_options(command: Command) -> Command {
    let config =
        Arg::new("config").long("config").value_name("FILE").help("A TOML file with any of these options");
    let command = command.arg(config).after_help(OPTION_HELP);
    OPTIONS.iter().fold(command, |command, spec| {
        let help = match spec.default {
            Some(default) => format!("{} [default: {default}]", spec.help),
            None => spec.help.to_owned(),
        };
        let arg = Arg::new(spec.key).long(spec.key).help(help);
        command.arg(match spec.value {
            Some(name) => arg.value_name(name).action(ArgAction::Set),
            None => arg.action(ArgAction::SetTrue),
        })
    })
}

/// Understands a command line, with the environment given.
///
/// # Errors
/// [`CliError`] for whatever is wrong; asking for help or the version is a [`CliError::Usage`] too.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    environment: BTreeMap<String, String>,
) -> Result<Action, CliError> {
    let matches = command().try_get_matches_from(args)?;
    match matches.subcommand() {
        Some(("dev", given)) => {
            let dev = [("node-id", "dev"), ("data-dir", DEV_DATA_DIR)];
            let defaults = dev.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
            let mut config = Config::from_sources(&sources(given, environment, defaults)?)?;
            if config.data_dir.as_os_str() == DEV_DATA_DIR {
                config.data_dir = PathBuf::new();
            }
            Ok(Action::Dev { config: Box::new(config) })
        }
        Some(("snapshot", given)) => match given.subcommand() {
            Some(("restore", given)) => {
                let config = Config::from_sources(&sources(given, environment, BTreeMap::new())?)?;
                Ok(Action::Restore { from: from(given), config: Box::new(config) })
            }
            Some((_, given)) => Ok(Action::Inspect { from: from(given) }),
            None => Err(missing("inspect or restore?")),
        },
        Some((_, given)) => {
            let config = Config::from_sources(&sources(given, environment, BTreeMap::new())?)?;
            Ok(Action::Server(Box::new(config)))
        }
        None => Err(missing("server, dev or snapshot?")),
    }
}

fn missing(what: &str) -> CliError {
    command().error(clap::error::ErrorKind::MissingSubcommand, what).into()
}

/// The flag that names a backup.
const FROM: &str = "from";

fn from(given: &ArgMatches) -> PathBuf {
    given.get_one::<String>(FROM).map(PathBuf::from).unwrap_or_default()
}

/// Stands for "a temporary directory" among `dev`'s defaults; no path can hold a NUL.
const DEV_DATA_DIR: &str = "\0";

fn sources(
    given: &ArgMatches,
    environment: BTreeMap<String, String>,
    defaults: BTreeMap<String, String>,
) -> Result<Sources, ConfigError> {
    let mut flags = BTreeMap::new();
    for spec in OPTIONS {
        let text = match spec.value {
            Some(_) => given.get_one::<String>(spec.key).cloned(),
            None => given.get_flag(spec.key).then(|| "true".to_owned()),
        };
        flags.extend(text.map(|text| (spec.key.to_owned(), text)));
    }
    let from_env = format!("{ENV_PREFIX}CONFIG");
    let (key, path) = match given.get_one::<String>("config") {
        Some(path) => ("--config".to_owned(), Some(path)),
        None => (from_env.clone(), environment.get(&from_env)),
    };
    let file = match path {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| ConfigError { key, why: format!("cannot read {path}: {e}") })?;
            Some((PathBuf::from(path), text))
        }
    };
    Ok(Sources { flags, environment, file, defaults })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Action, CliError> {
        parse(["ruvector-cluster"].iter().chain(args).map(OsString::from), BTreeMap::new())
    }

    #[test]
    fn the_grammar_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn dev_needs_nothing_and_server_needs_a_name() {
        let Ok(Action::Dev { config }) = parsed(&["dev"]) else { panic!() };
        assert_eq!((config.node_id.as_str(), config.data_dir.as_os_str().len()), ("dev", 0));
        assert!(matches!(parsed(&["server"]), Err(CliError::Config(e)) if e.key == "--node-id"));
        assert!(matches!(parsed(&["server", "--colour", "1"]), Err(CliError::Usage(_))));
    }

    #[test]
    fn a_restore_takes_a_file_and_the_options_of_the_node_that_begins() {
        let flags = ["snapshot", "restore", "--from", "b", "--node-id", "n1", "--data-dir", "/d"];
        let Ok(Action::Restore { from, config }) = parsed(&flags) else { panic!() };
        assert_eq!((from, config.node_id.as_str()), (PathBuf::from("b"), "n1"));
        assert!(matches!(parsed(&["snapshot", "restore", "--node-id", "n1"]), Err(CliError::Usage(_))));
        assert!(matches!(parsed(&["snapshot", "restore", "--from", "b"]), Err(CliError::Config(_))));
        let inspected = parsed(&["snapshot", "verify", "--from", "b"]);
        assert!(matches!(inspected, Ok(Action::Inspect { from }) if from.as_os_str() == "b"));
    }

    #[test]
    fn a_config_file_that_cannot_be_read_is_named() {
        let error = parsed(&["server", "--config", "/nowhere/c.toml"]).unwrap_err().to_string();
        assert!(error.starts_with("--config: cannot read /nowhere/c.toml"), "{error}");
    }

    #[test]
    fn the_help_tells_every_option_with_its_default() {
        let mut command = command();
        let help = command.find_subcommand_mut("server").unwrap().render_long_help().to_string();
        for spec in OPTIONS {
            assert!(help.contains(&format!("--{}", spec.key)), "{}", spec.key);
        }
        assert!(help.contains("[default: 127.0.0.1:7000]"));
    }
}
