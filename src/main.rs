//! The binary: command line, logging, signals, exit codes.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use ruvector_cluster::backup::{self, Backup};
use ruvector_cluster::cli::{self, Action, CliError};
use ruvector_cluster::config::{Config, LogFormat};
use ruvector_cluster::restore::{self, Restored};
use ruvector_cluster::server::{self, Parts};
use tokio::net::TcpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Answers are many small pieces of memory, taken on one thread and given back on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A bad flag, environment value or file.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    #[cfg(feature = "mutants")]
    if let Ok(name) = std::env::var("RUVECTOR_CLUSTER_MUTANT") {
        let Some(mutant) = mutants::Mutant::named(&name) else {
            eprintln!("error: RUVECTOR_CLUSTER_MUTANT: there is no mutant {name:?}");
            return ExitCode::from(EXIT_USAGE);
        };
        mutants::switch_on(mutant);
    }
    let action = match cli::parse(std::env::args_os(), std::env::vars().collect()) {
        Ok(action) => action,
        Err(CliError::Usage(error)) => error.exit(),
        Err(CliError::Config(error)) => {
            eprintln!("error: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let ran = match action {
        Action::Server(config) => start(*config, Announce::Log),
        Action::Dev { config } => dev(*config),
        Action::Inspect { from } => inspect(&from),
        Action::Restore { from, config } => restore(&from, &config),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(why)) => {
            eprintln!("error: {why}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Run(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

enum Failure {
    Usage(String),
    Run(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Run(error)
    }
}

/// How the URL is told.
#[derive(Clone, Copy)]
enum Announce {
    /// In the log.
    Log,
    /// Also as the first line of standard output, for people and scripts.
    Print,
}

fn dev(mut config: Config) -> Result<(), Failure> {
    // Kept until the node has stopped; then the directory goes.
    let temporary = tempfile::Builder::new().prefix("ruvector-cluster-dev-").tempdir();
    let temporary = temporary.context("cannot make a temporary directory")?;
    if config.data_dir.as_os_str().is_empty() {
        config.data_dir = temporary.path().join("data");
    }
    start(config, Announce::Print)
}

fn inspect(from: &Path) -> Result<(), Failure> {
    let Backup { head, state } = backup::read(from).context("the backup cannot be used")?;
    let shards = state.shard_counts();
    let opened = state.shards().filter(|row| row.was_opened()).count();
    let mut stdout = std::io::stdout();
    let lines = [
        ("cluster", head.cluster_id),
        ("generation", head.generation.to_string()),
        ("revision", head.revision.to_string()),
        ("made_at", head.made_at.to_rfc3339()),
        ("version", head.version),
        ("data_nodes", state.num_nodes().to_string()),
        ("shards", shards.total.to_string()),
        ("opened_shards", opened.to_string()),
        ("active_migrations", state.active_migrations().count().to_string()),
    ];
    for (name, value) in lines {
        writeln!(stdout, "{name}: {value}").context("cannot write")?;
    }
    Ok(())
}

fn restore(from: &Path, config: &Config) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let restored = runtime.context("cannot start the runtime")?.block_on(restore::restore(from, config));
    let restored = restored.context("nothing was restored")?;
    let Restored { cluster_id, generation, revision, raft_id } = restored;
    let mut stdout = std::io::stdout();
    writeln!(
        stdout,
        "restored {} for {} (raft id {raft_id}): cluster {cluster_id}, generation {generation}, revision {revision}\n\
         next: start it with `server` and the same options, then the other control nodes with empty directories, then the \
         data nodes; when all are back, POST /v1/cluster/resume",
        config.data_dir.display(),
        config.node_id
    )
    .context("cannot write")?;
    Ok(())
}

fn start(config: Config, announce: Announce) -> Result<(), Failure> {
    init_logging(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    Ok(runtime.block_on(run(config, announce))?)
}

fn init_logging(config: &Config) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.log).map_err(|e| Failure::Usage(format!("--log: {e}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

async fn run(config: Config, announce: Announce) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    watch_signals(shutdown.clone())?;
    let socket = bind(config.listen).with_context(|| {
        format!("cannot listen on {}: stop what listens there or choose another --listen", config.listen)
    })?;
    let parts = Parts::of_this_machine(&config)?;
    let listening = |addr| match announce {
        Announce::Log => Ok(()),
        Announce::Print => {
            let mut stdout = std::io::stdout();
            writeln!(stdout, "http://{addr}")?;
            stdout.flush()
        }
    };
    server::run(config, socket, parts, listening, shutdown).await?;
    Ok(())
}

/// The port is ours from here on; whoever connects is refused until it is listened to.
fn bind(addr: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// The first SIGTERM or SIGINT stops with grace, the second at once.
fn watch_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    tokio::spawn(async move {
        for turn in 0_u32.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if turn > 0 {
                std::process::exit(1);
            }
            shutdown.cancel();
        }
    });
    Ok(())
}
