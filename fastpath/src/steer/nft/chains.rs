//! The chains that packets meet, whatever the rules are.

use super::{
    super::{
        Marks, SteeringConfig,
        counter::{CLEAR_DROPPED, STRAYED},
    },
    Place,
};

/// Where the chains hook in. What others do before routing (marks of theirs, restored or wiped;
/// new destinations) has happened when we decide, as late as possible.
const LAST: i32 = 1000;
/// The same for own packets, but before others filter by the interface that a packet leaves by:
/// our mark may change it. Behind destination NAT (-100, firewalld -90), before filters (0).
const BEFORE_FILTER: i32 = -50;
/// Packets as they are on the wire on arrival, and as they were meant when they leave: NAT cannot
/// come before connection tracking (-200).
const BEFORE_NAT: i32 = -250;

/// The chains that packets meet. Lines that jump to what selectors cover, and to what may not
/// arrive in clear, are `jump_out` and `jump_in`; `everything` is whether a rule covers everything.
pub(super) fn chains(
    config: &SteeringConfig,
    place: Place,
    everything: bool,
    jump_out: &str,
    jump_in: &str,
) -> String {
    let tun = &config.interface;
    let (ike, nat) = (config.ike_port, config.nat_port);
    let Marks { mask, protect, bypass, pass, emerged } = config.marks();
    let keep = !mask;
    // Named one by one: the look-up behind `fib` sees our own `unreachable` routes as well, and
    // what they stop must still be caught. Not anycast: the first address of an IPv6 network
    // behind the TUN interface looks like it.
    let not_ours = "fib daddr type { local, broadcast, multicast } accept";
    // Neighbour discovery (types 133 to 137) is how the outer packets find their way.
    let discovery = "icmpv6 type 133-137 ip6 hoplimit 255 accept";
    let is = |mark: u32| format!("meta mark & {mask:#010x} == {mark:#010x}");
    let set = |mark: u32| format!("meta mark set meta mark & {keep:#010x} | {mark:#010x}");
    let (is_bypass, is_protect) = (is(bypass), is(protect));
    let (set_pass, set_protect) = (set(pass), set(protect));
    // Only one of two tables takes marks away, and the other one decides behind it, so that the
    // one that is whole at a moment has the last word.
    let (prerouting, output) = match place {
        Place::First => (LAST, BEFORE_FILTER),
        Place::Second => (LAST + 1, BEFORE_FILTER + 1),
    };
    let first = |lines: String| if place == Place::First { lines } else { String::new() };
    let unmark = first(format!("meta mark & {mask:#010x} != 0 {}\n", set(0)));
    let pass_on = first(format!("oifname \"{tun}\" goto pass\noifname \"lo\" goto pass\n"));
    // Marks of packets that we do not steer are left alone wherever that is possible.
    let from_tunnel = first(if everything {
        format!("iifname \"{tun}\" {}\n", set(emerged))
    } else {
        String::new()
    });
    // What few packets need to be asked is asked behind what selectors cover, not before.
    format!(
        "chain protect {{
{not_ours}
{discovery}
{set_protect}
}}
chain arrived {{
meta l4proto 50 fib daddr type local accept
udp dport {{ {ike}, {nat} }} fib daddr type local accept
meta l4proto 17 ip frag-off & 0x1fff != 0 fib daddr type local accept
meta l4proto 17 frag frag-off != 0 fib daddr type local accept
{discovery}
counter name {CLEAR_DROPPED} drop
}}
chain clear {{
{jump_in}}}
chain arrivals {{
type filter hook prerouting priority {BEFORE_NAT}; policy accept;
iifname \"{tun}\" accept
iifname \"lo\" accept
{jump_in}}}
chain prerouting {{
type filter hook prerouting priority {prerouting}; policy accept;
iifname \"lo\" accept
{unmark}{from_tunnel}iifname != \"{tun}\" jump clear
{jump_out}}}
chain pass {{
meta mark & {mask:#010x} != 0 accept
{not_ours}
{discovery}
{set_pass}
}}
chain output {{
type route hook output priority {output}; policy accept;
{is_bypass} accept
{unmark}{jump_out}{pass_on}}}
chain guard {{
oifname \"{tun}\" accept
oifname \"lo\" accept
{is_bypass} accept
{jump_out}{is_protect} counter name {STRAYED} drop
}}
chain guard_before_nat {{
type filter hook postrouting priority {BEFORE_NAT}; policy accept;
jump guard
}}
chain guard_behind_nat {{
type filter hook postrouting priority {LAST}; policy accept;
jump guard
}}
"
    )
}
