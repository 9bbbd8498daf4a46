//! Judges the finished binaries from outside.
//!
//! The library builds what a scenario needs and takes it away again, whatever happens: network
//! namespaces joined by a wire that can drop packets or translate addresses, private strongSwan
//! daemons, `posternd` and `postern` as they were built, captures of every outer interface and
//! numbered traffic that carries a canary. The scenarios are in `tests/`, one subject a file.
//!
//! Scenarios need root. A tool that is missing fails the scenario with the name of its package;
//! nothing is skipped.

pub mod capture;
pub mod clear;
pub mod command;
pub mod course;
pub mod failure;
pub mod guest;
pub mod install;
pub mod judge;
pub mod lab;
pub mod missed;
pub mod netns;
pub mod packet;
pub mod postern;
pub mod raw;
pub mod sandbox;
pub mod scenario;
pub mod spec;
pub mod strongswan;
pub mod tcp;
pub mod topology;
pub mod traffic;
pub mod wait;

pub use failure::{Failure, Outcome};
