//! The state machine as a whole: any sequence of commands, and golden scripts.

mod bounds;
mod golden;
mod properties;
mod restored;
mod script;

pub(crate) use properties::states_of;
