//! Why datagrams were dropped.

use alloc::vec::Vec;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident = $name:literal,)*) => {
        /// Datagrams that changed nothing, by reason.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $field: u64,)*
        }

        impl Counters {
            pub(crate) fn list(&self) -> Vec<(&'static str, u64)> {
                alloc::vec![$(($name, self.$field),)*]
            }
        }
    };
}

counters! {
    /// No IKEv2 message at all.
    malformed = "malformed",
    /// IKEv1.
    ikev1 = "ikev1",
    /// Another major version.
    version = "version",
    /// For no IKE SA of ours.
    unknown_spi = "unknown-spi",
    /// The ICV is wrong or the message cannot be opened.
    unauthentic = "unauthentic",
    /// A Message ID outside the window, or a fragment that does not fit.
    window = "window",
    /// An exchange or direction that does not fit the state.
    unexpected = "unexpected",
    /// Asked for a cookie instead of being served.
    cookie = "cookie",
    /// Too many half-open IKE SAs.
    half_open = "half-open",
    /// No tunnel for those addresses.
    no_tunnel = "no-tunnel",
}
