//! A whole gateway as one pure machine: no socket, no clock, no file.

pub mod command;
pub mod input;
pub mod output;
pub mod read_model;
pub mod spec;
