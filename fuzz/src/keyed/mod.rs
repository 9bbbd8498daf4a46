//! Two endpoints that speak IKE with each other, and somebody between them who has every key.
//!
//! Key agreements are requests that the harness answers itself with secrets of its choice, so it
//! can derive what the endpoints derive, open every message, and seal altered ones: a fuzzer
//! reaches what only a peer can reach, in every state of both roles.

pub mod script;
mod setup;
pub mod tracker;
pub mod world;

pub use script::Script;
pub use world::{Reached, World};
