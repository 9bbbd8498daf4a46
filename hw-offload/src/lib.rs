//! hw-offload
