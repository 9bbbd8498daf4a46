//! The judge itself, before it judges: two guests, kernel to kernel.
//!
//! Raw ESP with ESN, negotiated by strongSwan on both sides, over IPv4 and IPv6, rekeyed, and
//! with sequence numbers that cross 2^32. What fails here is the guest's fault, not Postern's.

use conformance::guest::{Addresses, Guest};
use conformance::netns::{Namespace, new_group, require_root};
use conformance::{Outcome, failure::ensure};

#[test]
fn two_kernels_speak_esn_over_raw_esp() -> Outcome {
    require_root()?;
    let wire = Namespace::new(&new_group(), "wire")?;
    wire.ip_lines("link add br0 type bridge\n link set br0 up")?;
    let mut a = Guest::boot(&wire, "br0")?;
    let mut b = Guest::boot(&wire, "br0")?;
    a.network(Addresses {
        outer: &["192.0.2.1/24", "2001:db8::1/64"],
        inner: &["10.1.0.1/16", "fd00:1::1/64"],
        gateways: &["192.0.2.2", "2001:db8::2"],
    })?;
    b.network(Addresses {
        outer: &["192.0.2.2/24", "2001:db8::2/64"],
        inner: &["10.2.0.1/16", "fd00:2::1/64"],
        gateways: &["192.0.2.1", "2001:db8::1"],
    })?;
    let conf = |me: u8, other: u8| {
        format!(
            "connections {{\n four {{\n  version = 2\n  local_addrs = 192.0.2.{me}\n  remote_addrs = 192.0.2.{other}\n\
             proposals = aes256gcm16-prfsha384-ecp384\n\
             local {{\n auth = psk\n id = g{me}.example\n }}\n remote {{\n auth = psk\n id = g{other}.example\n }}\n\
             children {{\n net {{\n local_ts = 10.{me}.0.0/16, fd00:{me}::/64\n remote_ts = 10.{other}.0.0/16, fd00:{other}::/64\n\
             esp_proposals = aes256gcm16-esn\n }}\n }}\n }}\n}}\n\
             secrets {{\n ike-1 {{\n secret = \"a shared secret of two guests\"\n }}\n}}\n"
        )
    };
    a.charon(&conf(1, 2))?;
    b.charon(&conf(2, 1))?;
    a.must("swanctl --initiate --child net")?;
    a.must("ping -c 3 -W 3 -I 10.1.0.1 10.2.0.1 && ping -6 -c 3 -W 3 -I fd00:1::1 fd00:2::1")?;
    let state = b.must("ip -s xfrm state")?;
    ensure(state.matches("flag af-unspec esn").count() == 2, || {
        format!("both SAs should have ESN:\n{state}")
    })?;
    ensure(!state.contains("encap type espinudp"), || format!("ESP should be raw:\n{state}"))?;
    a.must("swanctl --rekey --child net")?;
    a.must("ping -c 3 -W 3 -I 10.1.0.1 10.2.0.1")?;

    // The same by hand, four packets before the low half of the sequence number wraps.
    let manual = |me: u8, other: u8, first: u8, second: u8| {
        format!(
            "set -e\nswanctl --terminate --ike four >/dev/null || true\n\
             ip xfrm state flush\nip xfrm policy flush\n\
             esp() {{ ip xfrm state add src 2001:db8::$1 dst 2001:db8::$2 proto esp spi 0x1000000$3 reqid 1 \
               mode tunnel flag af-unspec esn replay-window 64 $4 \
               auth-trunc 'hmac(sha512)' 0x{mac} 256 enc 'cbc(aes)' 0x{key}; }}\n\
             esp {me} {other} {first} 'replay-oseq 0xfffffffc'\n\
             esp {other} {me} {second} 'replay-seq 0xfffffffb'\n\
             tmpl() {{ ip xfrm policy add dir $1 src 10.$2.0.0/16 dst 10.$3.0.0/16 \
               tmpl src 2001:db8::$2 dst 2001:db8::$3 proto esp reqid 1 mode tunnel; }}\n\
             tmpl out {me} {other}\ntmpl in {other} {me}\n",
            mac = "5c".repeat(64),
            key = "a7".repeat(24),
        )
    };
    a.must(&manual(1, 2, 1, 2))?;
    b.must(&manual(2, 1, 2, 1))?;
    a.must("ping -c 9 -i 0.1 -W 3 -I 10.1.0.1 10.2.0.1")?;
    let state = b.must("ip -s xfrm state")?;
    ensure(state.contains("seq-hi 0x1"), || format!("the high half should be 1:\n{state}"))
}
