//! The inner packet is held against the SA's selectors, fragments and ICMP included.

use esp::{OpenOutcome, OpenPacket, inner::Flow, open_burst_where};
use sa_store::{ChildId, Direction, Esn, TrafficSelector, live::DropReason};

use super::{gcm, inbound_of, ipv4, ipv6, open, outbound, record, seal_inner};

/// What an SA between these selectors says to an inner packet.
fn judge(local: &[&str], remote: &[&str], inner: &[u8]) -> Result<(), DropReason> {
    let parse = |all: &[&str]| all.iter().map(|ts| ts.parse().unwrap()).collect::<Vec<_>>();
    let mut record = record(gcm(), Esn::No, Direction::Inbound);
    record.local_selectors = parse(local);
    record.remote_selectors = parse(remote);
    let sa = inbound_of(&record);
    let sealed = seal_inner(&outbound(gcm(), Esn::No), inner);
    let outcome = open(&sa, &sealed, None).map(|_| ());
    let flow = Flow::read(inner).unwrap();
    assert_eq!(outcome.is_ok(), sa.selectors_accept(&flow));
    // The other direction is the mirror image.
    let (local, remote): (Vec<TrafficSelector>, Vec<_>) = (parse(local), parse(remote));
    assert_eq!(outcome.is_ok(), flow.matches_outbound(&remote, &local));
    if outcome.is_err() {
        assert_eq!(sa.live().counters().dropped(DropReason::Policy), 1);
        assert_eq!(sa.live().counters().packets, 0);
    }
    outcome
}

const REFUSED: Result<(), DropReason> = Err(DropReason::Policy);

#[test]
fn addresses_are_checked_in_their_direction() {
    // From 10.1.0.1 to 10.2.0.2: the peer's side is 10.1.
    let inner = ipv4(60, 0);
    assert_eq!(judge(&["10.2.0.0/16"], &["10.1.0.0/16"], &inner), Ok(()));
    assert_eq!(judge(&["10.1.0.0/16"], &["10.2.0.0/16"], &inner), REFUSED);
    assert_eq!(judge(&["10.2.0.0/16"], &["10.1.0.2/32"], &inner), REFUSED);
    assert_eq!(judge(&["10.3.0.0/16"], &["10.1.0.0/16"], &inner), REFUSED);
    assert_eq!(judge(&["10.3.0.0/16", "10.2.0.2/32"], &["10.1.0.0/16"], &inner), Ok(()));
    assert_eq!(judge(&[], &["10.1.0.0/16"], &inner), REFUSED);
    let inner = ipv6(60, 0);
    assert_eq!(judge(&["2001:db8::/64"], &["2001:db8::1/128"], &inner), Ok(()));
    assert_eq!(judge(&["0.0.0.0/0"], &["0.0.0.0/0"], &inner), REFUSED);
}

#[test]
fn protocols_and_ports_are_checked() {
    // UDP from port 12345 to port 53.
    for inner in [ipv4(60, 0), ipv6(60, 0)] {
        let net = if inner[0] >> 4 == 4 { "0.0.0.0/0" } else { "::/0" };
        let ts = |suffix: &str| format!("{net}{suffix}");
        assert_eq!(judge(&[&ts("[udp/53]")], &[&ts("[udp]")], &inner), Ok(()));
        assert_eq!(judge(&[&ts("[udp/53]")], &[&ts("[udp/12345]")], &inner), Ok(()));
        assert_eq!(judge(&[&ts("[udp/50-60]")], &[&ts("")], &inner), Ok(()));
        assert_eq!(judge(&[&ts("[udp/54]")], &[&ts("")], &inner), REFUSED);
        assert_eq!(judge(&[&ts("[tcp/53]")], &[&ts("")], &inner), REFUSED);
        assert_eq!(judge(&[&ts("")], &[&ts("[udp/53]")], &inner), REFUSED);
        assert_eq!(judge(&[&ts("[udp/opaque]")], &[&ts("")], &inner), REFUSED);
    }
}

#[test]
fn later_fragments_have_no_ports() {
    let mut fragment = ipv4(60, 0);
    fragment[6..8].copy_from_slice(&[0, 100]);
    let net = ["0.0.0.0/0"];
    assert_eq!(judge(&net, &net, &fragment), Ok(()));
    assert_eq!(judge(&["0.0.0.0/0[udp]"], &net, &fragment), Ok(()));
    assert_eq!(judge(&["0.0.0.0/0[udp/opaque]"], &net, &fragment), Ok(()));
    assert_eq!(judge(&["0.0.0.0/0[udp/53]"], &net, &fragment), REFUSED);
    assert_eq!(judge(&["0.0.0.0/0[tcp]"], &net, &fragment), REFUSED);
    // The first one has.
    let mut first = ipv4(60, 0);
    first[6..8].copy_from_slice(&[0x20, 0]);
    assert_eq!(judge(&["0.0.0.0/0[udp/53]"], &net, &first), Ok(()));

    for (offset, port_seen) in [(0_u16, true), (8, false)] {
        let mut v6 = ipv6(80, 0);
        v6[6] = 44;
        let mut header = vec![17, 0];
        header.extend((offset | 1).to_be_bytes());
        header.extend([0, 0, 0, 9]);
        let udp = v6[40..72].to_vec();
        v6.truncate(40);
        v6.extend(header);
        v6.extend(udp);
        assert_eq!(judge(&["::/0[udp/53]"], &["::/0"], &v6).is_ok(), port_seen);
        assert_eq!(judge(&["::/0[udp]"], &["::/0"], &v6), Ok(()));
        assert_eq!(judge(&["::/0[tcp]"], &["::/0"], &v6), REFUSED);
    }
}

#[test]
fn icmp_selectors_mean_type_and_code() {
    let mut echo = ipv4(60, 0);
    echo[9] = 1;
    echo[20..22].copy_from_slice(&[8, 0]);
    let net = ["0.0.0.0/0"];
    assert_eq!(judge(&["0.0.0.0/0[icmp]"], &net, &echo), Ok(()));
    assert_eq!(judge(&["0.0.0.0/0[icmp/8]"], &["0.0.0.0/0[icmp/8]"], &echo), Ok(()));
    assert_eq!(judge(&["0.0.0.0/0[icmp/8(0)]"], &net, &echo), Ok(()));
    assert_eq!(judge(&["0.0.0.0/0[icmp/0]"], &net, &echo), REFUSED);
    assert_eq!(judge(&["0.0.0.0/0[icmp/8(1)]"], &net, &echo), REFUSED);
    let mut echo = ipv6(60, 0);
    echo[6] = 58;
    echo[40..42].copy_from_slice(&[128, 0]);
    assert_eq!(judge(&["::/0[ipv6-icmp/128]"], &["::/0"], &echo), Ok(()));
    assert_eq!(judge(&["::/0[ipv6-icmp/129]"], &["::/0"], &echo), REFUSED);
}

#[test]
fn extension_headers_do_not_hide_the_protocol() {
    // Hop-by-hop, routing and destination options of different lengths before UDP.
    let udp = ipv6(60, 0)[40..].to_vec();
    let mut packet = ipv6(48, 0)[..40].to_vec();
    packet[6] = 0;
    packet.extend([43, 0, 1, 4, 0, 0, 0, 0]);
    packet.extend([60, 1, 4, 0]);
    packet.extend([0; 12]);
    packet.extend([17, 0, 1, 4, 0, 0, 0, 0]);
    packet.extend(udp);
    let payload = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&payload.to_be_bytes());
    let flow = Flow::read(&packet).unwrap();
    assert_eq!((flow.protocol, flow.source_port), (17, Some(12345)));
    assert_eq!(judge(&["::/0[udp/53]"], &["::/0"], &packet), Ok(()));
    assert_eq!(judge(&["::/0[udp/54]"], &["::/0"], &packet), REFUSED);

    // A chain that leads nowhere is malformed.
    let mut endless = ipv6(120, 0);
    endless[6] = 0;
    endless[40..].fill(0);
    assert_eq!(Flow::read(&endless), None);
    // So is a header that claims more than there is.
    let mut beyond = ipv6(60, 0);
    beyond[6] = 60;
    beyond[41] = 200;
    assert_eq!(Flow::read(&beyond), None);
}

/// Who has policies is asked about what the selectors accept, and about nothing else.
#[test]
fn what_the_policies_refuse_is_dropped_and_counted_as_such() {
    let sa = inbound_of(&record(gcm(), Esn::No, Direction::Inbound));
    let out = outbound(gcm(), Esn::No);
    let inner = ipv4(60, 0);
    for permitted in [false, true] {
        let mut packets = [(); 3].map(|()| seal_inner(&out, &inner));
        packets[1][20] ^= 1;
        let mut burst: Vec<_> =
            packets.iter_mut().map(|packet| OpenPacket::new(&sa, packet, None)).collect();
        let before = sa.live().counters();
        let mut asked = 0;
        open_burst_where(&mut burst, |of, flow| {
            assert_eq!((of.child(), *flow), (ChildId(1), Flow::read(&inner).unwrap()));
            asked += 1;
            permitted
        });
        assert_eq!(asked, 2, "the one that was changed on the way is nobody's");
        let outcome = burst[0].outcome();
        assert_eq!(matches!(outcome, OpenOutcome::Inner(_)), permitted);
        assert!(burst[0].authenticated().is_some(), "it came from the peer all the same");
        let after = sa.live().counters();
        let [passed, refused] = if permitted { [2, 0] } else { [0, 2] };
        assert_eq!(after.packets - before.packets, passed);
        let policy = DropReason::Policy;
        assert_eq!(after.dropped(policy) - before.dropped(policy), refused);
    }
}
