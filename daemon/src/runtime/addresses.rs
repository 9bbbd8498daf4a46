//! Watches the addresses of this machine.
