//! posternd
fn main() {}
