//! What must hold of every run, judged on its history alone.
