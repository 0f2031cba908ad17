//! Deciding and applying in a closed loop with data nodes that answer at once.
