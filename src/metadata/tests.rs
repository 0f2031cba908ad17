//! The state machine as a whole.

mod properties;
