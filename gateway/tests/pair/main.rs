//! Two whole gateways on a perfect wire: what operators do, and what they see.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod backend;
mod calling;
mod down;
mod lifecycle;
mod operators;
mod reasons;
mod reload;
mod scale;
mod withdrawn;
mod world;
