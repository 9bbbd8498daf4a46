//! Two endpoints with somebody between them who has the keys: see [`crate::keyed`].
//!
//! An input is two octets of configuration and then instructions: deliver, lose, double, reorder,
//! let time pass, command, fail a request, alter a datagram, alter what is inside a message, send
//! it in fragments, put a message in.

use crate::{
    Target,
    keyed::{Script, World},
    seed,
};

/// The target.
pub const TARGET: Target =
    Target { name: "ike_keyed", run, repair: None, seeds: seed::keyed_scripts };

fn run(input: &[u8]) -> u64 {
    let mut script = Script::new(input);
    World::new(&mut script).map_or(0, |world| world.run(&mut script).0)
}
