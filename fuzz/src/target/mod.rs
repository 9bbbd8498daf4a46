//! The targets, one a file.

pub mod esp_open;
pub mod ike_message;
