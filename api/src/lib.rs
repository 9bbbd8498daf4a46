//! The contracts with operators: generated types and stubs, no behaviour.
//!
//! [`postern::v1`] is Postern's own control protocol (`proto/postern/v1/control.proto`): gRPC
//! over a Unix socket, spoken by the `postern` command.

/// Postern's own protocols.
pub mod postern {
    /// Version 1 of the control protocol.
    #[expect(
        missing_docs,
        clippy::too_many_lines,
        reason = "generated from the proto file, which is the documentation; see tests/generated.rs"
    )]
    pub mod v1 {
        include!("generated/postern.v1.rs");
    }
}

/// Where the daemon listens unless its configuration says otherwise.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/postern/control.sock";
