//! The protocol explored exhaustively: a model checker over the functions that serve.
