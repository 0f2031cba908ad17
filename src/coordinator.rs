//! What the leader decides, and the one task that carries it out.
//!
//! Deciding is a pure function of the replicated state, of what the leader heard lately ([`Soft`]) and of the time; it answers
//! commands. The driver runs it while this control node leads and proposes what it says, each proposal fenced by the leadership
//! under which it was decided. Nothing here is remembered between two decisions but [`Soft`]: a new leader goes on from
//! committed state alone.

mod decide;
mod driver;
mod explain;
mod resume;
mod verdicts;

pub use crate::soft::{HeardOf, Now, Progress, Soft, SoftNode};
pub use decide::{Decision, Scope, decide};
pub use driver::{Control, Coordinator, HeartbeatError, aside, observe_heartbeat};
pub use explain::explain;
pub use resume::{ResumePlan, plan_resume};

#[cfg(test)]
mod tests;
