//! Management: thin translators between protocols and `gateway`'s one command list.

pub mod grpc;
pub mod reload;
pub mod socket;
mod translate;
