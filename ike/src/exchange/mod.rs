//! The exchanges of IKEv2, one a file, both roles, with the ladder on top.

pub(crate) mod collision;
pub(crate) mod create_child_sa;
pub(crate) mod ike_auth;
pub(crate) mod ike_sa_init;
pub(crate) mod informational;
pub(crate) mod pair;
pub(crate) mod refusal;
pub(crate) mod rekey_child_sa;
pub(crate) mod rekey_ike_sa;
pub(crate) mod unprotected;
