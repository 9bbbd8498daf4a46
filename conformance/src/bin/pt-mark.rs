//! Sends one recognisable packet out of an interface, so that a capture of it is known to hold
//! everything before: `pt-mark INTERFACE TEXT`.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};

use conformance::packet::MARK_PORT;
use conformance::{Failure, Outcome};

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [interface, text] = arguments.as_slice() else {
        return Err(Failure::new("an interface and a text are needed"));
    };
    let index = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))?;
    let index = index.trim().parse().map_err(|_| Failure::new("no interface index"))?;
    // All nodes on the link.
    let everyone =
        SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), MARK_PORT, 0, index);
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?.send_to(text.as_bytes(), everyone)?;
    Ok(())
}
