//! The targets, one a file.

pub mod config;
pub mod esp_open;
pub mod ike_keyed;
pub mod ike_message;
