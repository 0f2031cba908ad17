//! Places in the code where a test kills the process, or holds something back: in test builds only.
//!
//! A *fail point* has a name. Without the feature `fail-points` asking for it is the constant [`Go::On`], which the compiler
//! removes; a build without debug assertions (a release build) with the feature does not compile. With it, a process looks into
//! the folder that the environment variable `RUVECTOR_CLUSTER_FAIL_POINTS` names: the file `kill.NAME` there kills the process
//! with SIGKILL when it comes by, once, as the file is removed before; the file `hold.NAME` holds back what stands there, as long
//! as it exists.

#[cfg(all(feature = "fail-points", not(debug_assertions)))]
compile_error!("a release build must not contain fail points: leave the feature `fail-points` off");

/// What whoever passes a fail point is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// As if it weren't there.
    On,
    /// Leave out what stands there, as if it were lost.
    Without,
}

/// Passes the fail point `kind.name`.
#[cfg(not(feature = "fail-points"))]
#[inline]
pub fn pass(_kind: &str, _name: impl std::fmt::Display) -> Go {
    Go::On
}

/// Passes the fail point `kind.name`.
#[cfg(feature = "fail-points")]
pub fn pass(kind: &str, name: impl std::fmt::Display) -> Go {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| std::env::var_os("RUVECTOR_CLUSTER_FAIL_POINTS").map(PathBuf::from));
    let Some(folder) = folder else { return Go::On };
    if std::fs::remove_file(folder.join(format!("kill.{kind}.{name}"))).is_ok() {
        eprintln!("killed at the fail point {kind}.{name}");
        let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // Signals to oneself are delivered before the call returns.
        unreachable!("the process lives after {killed:?}");
    }
    if folder.join(format!("hold.{kind}.{name}")).exists() { Go::Without } else { Go::On }
}
