//! sa-store
