//! ECN (RFC 6040), DSCP and hop limits.

use esp::{
    InnerHops, OutboundOptions, SealSource,
    ecn::{Ecn, decapsulate, encapsulate},
};
use sa_store::{Direction, DscpPolicy, EcnPolicy, Esn, live::DropReason};

use super::{
    gcm, inbound, inbound_of, ipv4, ipv4_checksum, ipv6, open, outbound, outbound_of, record, seal,
    seal_inner,
};

/// RFC 6040 Figure 4, row by row; columns are the outer Not-ECT, ECT(0), ECT(1), CE.
const FIGURE_4: [(Ecn, [Option<Ecn>; 4]); 4] = {
    use Ecn::{Ce, Ect0, Ect1, NotEct};
    [
        (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
        (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
        (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
        (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
    ]
};

#[test]
fn all_sixteen_combinations_are_those_of_figure_4() {
    for (inner, row) in FIGURE_4 {
        for (outer, expected) in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce].into_iter().zip(row) {
            assert_eq!(decapsulate(inner, outer), expected, "{inner:?} {outer:?}");
            // And through packets, with the rest of the octet left alone.
            for v6 in [false, true] {
                let tos = 0x2e << 2 | inner.bits();
                let packet = if v6 { ipv6(80, tos) } else { ipv4(80, tos) };
                let (out, inb) = (outbound(gcm(), Esn::No), inbound(gcm(), Esn::No));
                let sealed = seal_inner(&out, &packet);
                let opened = open(&inb, &sealed, Some(0xfc | outer.bits()));
                match expected {
                    None => assert_eq!(opened, Err(DropReason::Policy)),
                    Some(ecn) => {
                        let tos = 0x2e << 2 | ecn.bits();
                        let expected = if v6 { ipv6(80, tos) } else { ipv4(80, tos) };
                        assert_eq!(opened, Ok(expected), "{inner:?} {outer:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_outer_header_carries_the_inner_codepoint() {
    for ecn in Ecn::ALL {
        assert_eq!(encapsulate(ecn), ecn);
        assert_eq!(Ecn::of(ecn.bits() | 0xfc), ecn);
        let out = outbound(gcm(), Esn::No);
        let inner = ipv4(80, ecn.bits());
        let (_, sealed) = seal(&out, SealSource::Parts { head: &inner, body: &[] }).unwrap();
        assert_eq!(sealed.traffic_class, ecn.bits());
    }
}

#[test]
fn ecn_can_be_off() {
    let mut out = record(gcm(), Esn::No, Direction::Outbound);
    out.ecn = EcnPolicy::Off;
    let mut inb = record(gcm(), Esn::No, Direction::Inbound);
    inb.ecn = EcnPolicy::Off;
    let (out, inb) = (outbound_of(&out, &OutboundOptions::new([0; 16])), inbound_of(&inb));
    let inner = ipv4(80, 0b10);
    let (packet, sealed) = seal(&out, SealSource::Parts { head: &inner, body: &[] }).unwrap();
    assert_eq!(sealed.traffic_class, 0);
    assert_eq!(open(&inb, &packet, Some(0b11)), Ok(inner));
}

#[test]
fn dscp_is_copied_out_or_set_and_never_copied_in() {
    for (policy, expected) in [(DscpPolicy::CopyOut, 0x2e << 2), (DscpPolicy::Set(10), 10 << 2)] {
        let mut out = record(gcm(), Esn::No, Direction::Outbound);
        out.dscp = policy;
        let out = outbound_of(&out, &OutboundOptions::new([0; 16]));
        for inner in [ipv4(80, 0x2e << 2), ipv6(80, 0x2e << 2)] {
            let source = SealSource::Parts { head: &inner, body: &[] };
            let (packet, sealed) = seal(&out, source).unwrap();
            assert_eq!(sealed.traffic_class, expected);
            assert_eq!(open(&inbound(gcm(), Esn::No), &packet, Some(0xfc)), Ok(inner));
        }
    }
}

#[test]
fn hops_are_kept_or_taken_and_a_packet_without_one_is_dropped() {
    let mut how = OutboundOptions::new([0; 16]);
    how.inner_hops = InnerHops::Decrement;
    let taking = outbound_of(&record(gcm(), Esn::No, Direction::Outbound), &how);
    let inb = inbound(gcm(), Esn::No);
    for (mut inner, at) in [(ipv4(80, 0), 8), (ipv6(80, 0), 7)] {
        let opened = open(&inb, &seal_inner(&taking, &inner), None).unwrap();
        assert_eq!(opened[at], 62);
        if at == 8 {
            assert_eq!(ipv4_checksum(&opened[..20]), 0);
        }
        for hops in [0, 1] {
            inner[at] = hops;
            let refused = seal(&taking, SealSource::Parts { head: &inner, body: &[] });
            assert_eq!(refused.map(|_| ()), Err(DropReason::Policy));
        }
        let keeping = outbound(gcm(), Esn::No);
        let kept = seal_inner(&keeping, &inner);
        assert_eq!(open(&inbound(gcm(), Esn::No), &kept, None), Ok(inner));
    }
}

/// Every checksum that is mended stays right, whatever the header.
#[test]
fn the_mended_checksum_is_right_for_every_mark_and_checksum() {
    for filler in 0..=u16::MAX {
        if filler % 97 != 0 {
            continue;
        }
        let mut inner = ipv4(60, 0b01);
        inner[4..6].copy_from_slice(&filler.to_be_bytes());
        inner[10..12].fill(0);
        let sum = ipv4_checksum(&inner[..20]);
        inner[10..12].copy_from_slice(&sum.to_be_bytes());
        let sealed = seal_inner(&outbound(gcm(), Esn::No), &inner);
        let opened = open(&inbound(gcm(), Esn::No), &sealed, Some(0b11)).unwrap();
        assert_eq!(opened[1], 0b11);
        assert_eq!(ipv4_checksum(&opened[..20]), 0, "{filler}");
    }
}
