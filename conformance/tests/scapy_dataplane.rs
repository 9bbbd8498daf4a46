//! The running data plane held against scapy: clear packets into its TUN interface, ESP on its
//! wire, and the other way round.
//!
//! ```text
//!   namespace `judge`                namespace `gateway`
//!   judge.py  client --------------- in   postern0
//!             wire   --------------- out  raw and UDP sockets
//! ```
//!
//! 192 SA pairs are installed at once, with keys the judge knows: every suite, with and without
//! ESN, the four address pairs, raw and in UDP.

use std::path::Path;
use std::time::Duration;

use conformance::command::{require, run};
use conformance::failure::{Failure, Outcome, ensure};
use conformance::judge::enough_were_judged;
use conformance::netns::{Namespace, new_group, require_root};

const PYTHON: &str = "/usr/bin/python3";
const LIMIT: Duration = Duration::from_secs(280);

#[test]
fn the_data_plane_agrees_with_scapy_on_five_thousand_packets() -> Outcome {
    require_root()?;
    let program =
        conformance::postern::beside_the_tests("examples/dataplane_lines").map_err(|_| {
            Failure::new(
                "dataplane_lines is not built: run `cargo build -p fastpath --examples` \
                 (`make test` does)",
            )
        })?;
    let group = new_group();
    let (gateway, judge) = (Namespace::new(&group, "gw")?, Namespace::new(&group, "judge")?);
    join(&gateway, &judge)?;

    let python = std::env::var("POSTERN_SCAPY_PYTHON").unwrap_or_else(|_| PYTHON.to_owned());
    require(&python)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scapy/judge.py");
    let (script, program) = (
        script.display().to_string(),
        format!("ip netns exec {} {}", gateway.name(), program.display()),
    );
    let verdict = run(
        &judge.inside(&[
            &python,
            &script,
            "--program",
            &program,
            "--wire",
            "client,wire",
            "--packets",
            "5000",
            "--longest",
            "1340",
        ]),
        LIMIT,
    )?;
    ensure(verdict.code == 0, || {
        format!("the data plane and scapy disagree ({}):\n{}", verdict.code, verdict.text())
    })?;
    enough_were_judged(&verdict.stdout, 2500)
}

/// Two cables with fixed addresses on both ends; the judge answers no ARP.
fn join(gateway: &Namespace, judge: &Namespace) -> Outcome {
    judge.sysctl(&[
        ("net.ipv6.conf.all.disable_ipv6", "1"),
        ("net.ipv6.conf.default.disable_ipv6", "1"),
    ])?;
    for (number, ours, theirs) in [(1, "in", "client"), (2, "out", "wire")] {
        gateway.ip_lines(&format!(
            "link add {ours} address 02:00:00:00:0{number}:01 type veth peer name {theirs} \
             address 02:00:00:00:0{number}:02 netns {}
             link set {ours} up",
            judge.name()
        ))?;
        judge.ip(&["link", "set", theirs, "up"])?;
    }
    gateway.sysctl(&[
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.conf.default.send_redirects", "0"),
    ])?;
    gateway.ip_lines(
        "addr add 10.1.255.1/24 dev in
         addr add fd00:1:0:ffff::1/64 dev in nodad
         addr add 192.0.2.1/24 dev out
         addr add 2001:db8::1/64 dev out nodad
         neigh add 10.1.255.2 lladdr 02:00:00:00:01:02 dev in nud permanent
         neigh add fd00:1:0:ffff::2 lladdr 02:00:00:00:01:02 dev in nud permanent
         neigh add 192.0.2.2 lladdr 02:00:00:00:02:02 dev out nud permanent
         neigh add 2001:db8::2 lladdr 02:00:00:00:02:02 dev out nud permanent
         route add 10.1.0.0/16 via 10.1.255.2
         -6 route add fd00:1::/48 via fd00:1:0:ffff::2
         route add default via 192.0.2.2
         -6 route add default via 2001:db8::2",
    )
}
